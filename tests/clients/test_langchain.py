"""LangChain's OpenAI classes against a served gateway."""

import unittest

import pydantic
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI
from served import (
    CHAT_MODEL,
    TINY_MODEL,
    URL,
    setUpModule,  # noqa: F401  (unittest calls it)
)

ADDRESS = {"base_url": f"{URL}/v1", "api_key": "none", "max_retries": 0}


class LangChainTest(unittest.TestCase):
    def test_a_chat_is_answered_and_streamed(self) -> None:
        model = ChatOpenAI(model=CHAT_MODEL, temperature=0, max_tokens=24, **ADDRESS)
        messages = [
            SystemMessage("Be brief."),
            HumanMessage("What is the capital of France? Answer with one word."),
        ]
        answer = model.invoke(messages)
        self.assertIn("Paris", answer.content)
        self.assertEqual(answer.response_metadata["finish_reason"], "stop")
        self.assertGreater(answer.usage_metadata["input_tokens"], 20)
        chunks = list(model.stream(messages, stream_usage=True))
        self.assertEqual("".join(chunk.content for chunk in chunks), answer.content)
        counted = [chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata]
        self.assertEqual(sum(counted), answer.usage_metadata["output_tokens"])

    def test_texts_are_continued_one_by_one_in_a_list_and_as_a_stream(self) -> None:
        model = OpenAI(model=TINY_MODEL, temperature=0, max_tokens=8, **ADDRESS)
        alone = [model.invoke(prompt) for prompt in ("Hello", "abc")]
        result = model.generate(["Hello", "abc"])
        self.assertEqual([generations[0].text for generations in result.generations], alone)
        self.assertEqual(result.llm_output["token_usage"]["prompt_tokens"], 8)
        self.assertEqual("".join(model.stream("abc")), alone[1])

    def test_several_choices_come_back(self) -> None:
        model = OpenAI(model=TINY_MODEL, temperature=1.5, max_tokens=8, n=3, best_of=3, seed=4, **ADDRESS)
        texts = [generation.text for generation in model.generate(["abc"]).generations[0]]
        self.assertEqual(len(set(texts)), 3)

    def test_structured_output_and_forced_tools_work_as_langchain_asks_for_them(self) -> None:
        class Capital(pydantic.BaseModel):
            """A capital."""

            model_config = pydantic.ConfigDict(extra="forbid")
            city: str = pydantic.Field(max_length=20)

        model = ChatOpenAI(model=CHAT_MODEL, temperature=0, max_tokens=80, **ADDRESS)
        question = "What is the capital of France?"
        for method in ("json_schema", "function_calling"):
            answer = model.with_structured_output(Capital, method=method).invoke(question)
            self.assertIsInstance(answer, Capital)
        called = model.bind_tools([Capital], tool_choice="any").invoke(question)
        self.assertEqual([call["name"] for call in called.tool_calls], ["Capital"])


if __name__ == "__main__":
    unittest.main()
