"""The official OpenAI client against a served gateway."""

import asyncio
import json
import unittest
from typing import Literal

import openai
import pydantic
from openai import OpenAI
from served import (
    CANCELLED,
    CHAT_MODEL,
    LONG_PROMPT,
    RUNNING,
    TINY_MODEL,
    TOOL_MODEL,
    URL,
    WAITING,
    sample,
    setUpModule,  # noqa: F401  (unittest calls it)
    wait_for_sample,
)

QUESTION = [{"role": "user", "content": "What is the capital of France? Answer with one word."}]
GREEDY = {"temperature": 0, "max_tokens": 24}


class ClientTestCase(unittest.TestCase):
    def setUp(self) -> None:
        self.client = OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
        self.addCleanup(self.client.close)


class ChatTest(ClientTestCase):
    def test_a_chat_is_answered_with_its_usage(self) -> None:
        answer = self.client.chat.completions.create(model=CHAT_MODEL, messages=QUESTION, **GREEDY)
        choice = answer.choices[0]
        self.assertIn("Paris", choice.message.content)
        self.assertEqual(
            (choice.message.role, choice.finish_reason, choice.logprobs), ("assistant", "stop", None)
        )
        usage = answer.usage
        self.assertGreater(usage.prompt_tokens, 30)
        self.assertEqual(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
        self.assertGreaterEqual(usage.prompt_tokens_details.cached_tokens, 0)
        self.assertEqual((answer.object, answer.model), ("chat.completion", CHAT_MODEL))
        self.assertEqual(answer.id, f"chatcmpl-{answer._request_id}")

    def test_the_pieces_of_a_stream_are_the_answer(self) -> None:
        whole = self.client.chat.completions.create(model=CHAT_MODEL, messages=QUESTION, **GREEDY)
        stream = self.client.chat.completions.create(
            model=CHAT_MODEL, messages=QUESTION, stream=True, stream_options={"include_usage": True}, **GREEDY
        )
        *chunks, last = stream
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        self.assertEqual(text, whole.choices[0].message.content)
        self.assertEqual(chunks[-1].choices[0].finish_reason, "stop")
        self.assertEqual((last.choices, last.usage.completion_tokens), ([], whole.usage.completion_tokens))
        self.assertTrue(all(chunk.usage is None for chunk in chunks))

    def test_the_clients_own_assembly_of_a_stream_understands_it(self) -> None:
        with self.client.chat.completions.stream(
            model=TINY_MODEL, messages=QUESTION, max_tokens=8, logprobs=True, top_logprobs=2, n=2, seed=3
        ) as stream:
            kinds = {event.type for event in stream}
            # The final one is given out only for texts that ended by themselves.
            final = stream.current_completion_snapshot
        self.assertLessEqual({"chunk", "content.delta", "content.done", "logprobs.content.delta"}, kinds)
        whole = self.client.chat.completions.create(
            model=TINY_MODEL, messages=QUESTION, max_tokens=8, logprobs=True, top_logprobs=2, n=2, seed=3
        )
        for streamed, choice in zip(final.choices, whole.choices, strict=True):
            self.assertEqual(streamed.message.content, choice.message.content)
            self.assertEqual(streamed.logprobs.content, choice.logprobs.content)

    def test_an_answer_can_be_part_of_the_next_request(self) -> None:
        first = self.client.chat.completions.create(model=TINY_MODEL, messages=QUESTION, max_tokens=4, seed=1)
        message = first.choices[0].message
        messages = [*QUESTION, message.model_dump(), {"role": "user", "content": "And of Spain?"}]
        second = self.client.chat.completions.create(model=TINY_MODEL, messages=messages, max_tokens=4)
        self.assertGreater(second.usage.prompt_tokens, first.usage.total_tokens)

    def test_several_choices_differ_and_log_probabilities_are_told(self) -> None:
        answer = self.client.chat.completions.create(
            model=TINY_MODEL,
            messages=QUESTION,
            n=3,
            seed=5,
            max_tokens=16,
            temperature=1.5,
            logprobs=True,
            top_logprobs=4,
        )
        self.assertEqual([choice.index for choice in answer.choices], [0, 1, 2])
        self.assertEqual(len({choice.message.content for choice in answer.choices}), 3)
        for choice in answer.choices:
            for token in choice.logprobs.content:
                self.assertLessEqual(token.logprob, 0)
                self.assertEqual(len(token.top_logprobs), 4)
                self.assertTrue(token.bytes is None or bytes(token.bytes).decode() == token.token)

    def test_options_of_other_servers_go_through_extra_body(self) -> None:
        extra = {
            "top_k": 1,
            "min_p": 0.1,
            "repetition_penalty": 1.0,
            "ignore_eos": True,
            "chat_template_kwargs": {"a": 1},
        }
        sampled = self.client.chat.completions.create(
            model=TINY_MODEL, messages=QUESTION, max_tokens=8, extra_body=extra
        )
        greedy = self.client.chat.completions.create(
            model=TINY_MODEL, messages=QUESTION, max_tokens=8, temperature=0, extra_body={"ignore_eos": True}
        )
        self.assertEqual(sampled.choices[0].message.content, greedy.choices[0].message.content)

    def test_many_chats_at_once_get_each_its_own_answer(self) -> None:
        async def ask_all() -> list[str]:
            async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0) as client:
                asked = [
                    client.chat.completions.create(
                        model=TINY_MODEL,
                        messages=[{"role": "user", "content": f"Number {n % 4}"}],
                        max_tokens=12,
                        temperature=0,
                    )
                    for n in range(12)
                ]
                return [answer.choices[0].message.content for answer in await asyncio.gather(*asked)]

        texts = asyncio.run(ask_all())
        self.assertEqual(texts[:4] * 3, texts)


class CompletionTest(ClientTestCase):
    def test_texts_and_token_ids_are_continued(self) -> None:
        options = {"model": TINY_MODEL, "max_tokens": 6, "temperature": 0}
        one = self.client.completions.create(prompt="abc", **options)
        many = self.client.completions.create(prompt=["Hello", "abc"], n=2, **options)
        ids = self.client.completions.create(prompt=list(b"abc"), **options)
        lists = self.client.completions.create(prompt=[list(b"abc"), list(b"Hello")], **options)
        text = one.choices[0].text
        self.assertEqual([choice.index for choice in many.choices], [0, 1, 2, 3])
        for other in (many.choices[2], many.choices[3], ids.choices[0], lists.choices[0]):
            self.assertEqual(other.text, text)
        self.assertEqual(many.usage.prompt_tokens, 8)

    def test_a_stream_has_logprobs_that_are_those_of_the_answer(self) -> None:
        options = {"model": TINY_MODEL, "prompt": "abc", "max_tokens": 10, "temperature": 0, "logprobs": 3}
        whole = self.client.completions.create(echo=False, **options).choices[0]
        chunks = [chunk.choices[0] for chunk in self.client.completions.create(stream=True, **options)]
        self.assertEqual("".join(chunk.text for chunk in chunks), whole.text)
        told = [chunk.logprobs for chunk in chunks if chunk.logprobs]
        for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            self.assertEqual(sum((getattr(one, key) for one in told), []), getattr(whole.logprobs, key))
        self.assertEqual(chunks[-1].finish_reason, whole.finish_reason)

    def test_a_stop_text_ends_the_text(self) -> None:
        options = {"model": TINY_MODEL, "prompt": LONG_PROMPT, "max_tokens": 20, "temperature": 0}
        whole = self.client.completions.create(**options).choices[0].text
        stopped = self.client.completions.create(stop=whole[6:8], **options).choices[0]
        self.assertEqual((stopped.text, stopped.finish_reason), (whole[: whole.index(whole[6:8])], "stop"))

    def test_a_client_that_goes_away_frees_the_places_of_all_its_choices(self) -> None:
        cancelled = sample(CANCELLED)
        stream = self.client.completions.create(
            model=TINY_MODEL,
            prompt=LONG_PROMPT,
            max_tokens=230,
            n=6,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        next(iter(stream))
        stream.close()
        wait_for_sample(self, RUNNING, 0)
        wait_for_sample(self, WAITING, 0)
        self.assertIn(sample(CANCELLED) - cancelled, range(1, 7))


class ModelsTest(ClientTestCase):
    def test_models_are_listed_and_found(self) -> None:
        models = {model.id: model for model in self.client.models.list()}
        self.assertLessEqual({CHAT_MODEL, TINY_MODEL}, set(models))
        self.assertEqual(self.client.models.retrieve(CHAT_MODEL), models[CHAT_MODEL])
        self.assertGreater(models[CHAT_MODEL].created, 1_700_000_000)


def tool(name: str, **properties: object) -> dict:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "description": name, "parameters": parameters}}


class Capital(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    city: str = pydantic.Field(max_length=20)
    kind: Literal["capital", "village"]


class FormatTest(ClientTestCase):
    def test_an_answer_is_parsed_into_the_callers_class(self) -> None:
        answer = self.client.chat.completions.parse(
            model=CHAT_MODEL, messages=QUESTION, response_format=Capital, temperature=0, max_tokens=80
        )
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        parsed = answer.choices[0].message.parsed
        self.assertIsInstance(parsed, Capital)
        self.assertIn("Paris", parsed.city)

    def test_a_stream_of_a_format_is_parsed_too(self) -> None:
        with self.client.chat.completions.stream(
            model=CHAT_MODEL, messages=QUESTION, response_format=Capital, temperature=0, max_tokens=80
        ) as stream:
            final = stream.get_final_completion()
        self.assertIn("Paris", final.choices[0].message.parsed.city)

    def test_a_choice_and_a_pattern_are_kept_to(self) -> None:
        for outputs, pattern in (
            ({"choice": ["yes", "no"]}, "yes|no"),
            ({"regex": "[A-Z][a-z]{2,8}"}, "[A-Z][a-z]{2,8}"),
        ):
            answer = self.client.chat.completions.create(
                model=CHAT_MODEL, messages=QUESTION, extra_body={"structured_outputs": outputs}, **GREEDY
            )
            self.assertRegex(answer.choices[0].message.content, f"^({pattern})$")


class ToolTest(ClientTestCase):
    TOOLS = (
        tool("get_capital", country={"type": "string", "maxLength": 20}),
        tool("set_alarm", hour={"type": "integer", "minimum": 0, "maximum": 23}),
    )

    def test_a_forced_call_and_its_result_make_a_conversation(self) -> None:
        answer = self.client.chat.completions.create(
            model=CHAT_MODEL, messages=QUESTION, tools=self.TOOLS, temperature=0, max_tokens=80,
            tool_choice={"type": "function", "function": {"name": "get_capital"}},
        )  # fmt: skip
        choice = answer.choices[0]
        self.assertEqual((choice.finish_reason, choice.message.content), ("tool_calls", None))
        (call,) = choice.message.tool_calls
        self.assertEqual(call.function.name, "get_capital")
        self.assertEqual(list(json.loads(call.function.arguments)), ["country"])
        result = {"role": "tool", "tool_call_id": call.id, "content": "Paris"}
        answer = self.client.chat.completions.create(
            model=CHAT_MODEL, messages=[*QUESTION, choice.message, result], **GREEDY
        )
        self.assertTrue(answer.choices[0].message.content)

    def test_a_required_call_is_streamed_as_the_client_assembles_it(self) -> None:
        with self.client.chat.completions.stream(
            model=CHAT_MODEL, messages=QUESTION, tools=self.TOOLS, tool_choice="required", seed=1, max_tokens=80
        ) as stream:
            kinds = {event.type for event in stream}
            final = stream.get_final_completion()
        self.assertIn("tool_calls.function.arguments.delta", kinds)
        (call,) = final.choices[0].message.tool_calls
        self.assertIn(call.function.name, {"get_capital", "set_alarm"})
        json.loads(call.function.arguments)

    def test_a_template_without_tools_takes_forced_calls_only(self) -> None:
        with self.assertRaises(openai.BadRequestError) as raised:
            self.client.chat.completions.create(model=CHAT_MODEL, messages=QUESTION, tools=self.TOOLS, **GREEDY)
        self.assertEqual((raised.exception.param, raised.exception.code), ("tools", "unsupported_parameter"))
        self.assertIn("tool_choice", str(raised.exception))

    def test_a_template_with_tools_lets_the_model_choose(self) -> None:
        said = '<tool_call>\n{"name": "get_capital", "arguments": {"country": "France"}}\n</tool_call>'
        messages = [{"role": "user", "content": f"Repeat this text exactly, and nothing else:\n{said}"}]
        request = {"model": TOOL_MODEL, "messages": messages, "tools": self.TOOLS, "temperature": 0, "max_tokens": 60}
        answer = self.client.chat.completions.create(**request)
        choice = answer.choices[0]
        self.assertEqual(choice.finish_reason, "tool_calls")
        call = choice.message.tool_calls[0]
        self.assertEqual(call.function.name, "get_capital")
        self.assertEqual(json.loads(call.function.arguments), {"country": "France"})
        with self.client.chat.completions.stream(**request) as stream:
            streamed = stream.get_final_completion().choices[0].message.tool_calls[0]
        self.assertEqual(streamed.function.arguments, call.function.arguments)
        without = self.client.chat.completions.create(**request, tool_choice="none")
        self.assertIsNone(without.choices[0].message.tool_calls)


class ErrorTest(ClientTestCase):
    def refused(self, kind: type[openai.APIStatusError], **fields: object) -> openai.APIStatusError:
        request = {"model": TINY_MODEL, "messages": QUESTION, "max_tokens": 2, **fields}
        with self.assertRaises(kind) as raised:
            self.client.chat.completions.create(**request)
        self.assertTrue(raised.exception.request_id)
        return raised.exception

    def test_errors_are_of_the_clients_classes_and_name_the_field(self) -> None:
        for fields, param, code in (
            ({"temperature": 3}, "temperature", "invalid_value"),
            ({"tools": [tool("f")]}, "tools", "unsupported_parameter"),
            ({"tools": [tool("f")], "tool_choice": "sometimes"}, "tool_choice", "invalid_value"),
            ({"extra_body": {"structured_outputs": {}}}, "structured_outputs", "invalid_value"),
            ({"messages": [{"role": "user", "content": "a" * 300}]}, "messages", "context_length_exceeded"),
            ({"extra_body": {"frobnicate": 1}}, "frobnicate", "unknown_parameter"),
            ({"n": 1000}, "n", "invalid_value"),
        ):
            error = self.refused(openai.BadRequestError, **fields)
            self.assertEqual((error.param, error.code, error.type), (param, code, "invalid_request_error"))
            self.assertIn(param.split("[")[0] if code != "context_length_exceeded" else "context", str(error))

    def test_a_model_that_is_not_there_is_not_found(self) -> None:
        self.assertEqual(self.refused(openai.NotFoundError, model="gpt-5").code, "model_not_found")
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("gpt-5")
        with self.assertRaises(openai.NotFoundError):
            self.client.embeddings.create(model=TINY_MODEL, input="a")


if __name__ == "__main__":
    unittest.main()
