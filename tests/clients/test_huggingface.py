"""Hugging Face's client of Text Generation Inference against a gateway that serves one model."""

import json
import unittest
import warnings

from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError, ValidationError
from served import (
    CHAT_MODEL,
    TGI_URL,
    URL,
    setUpModule,  # noqa: F401  (unittest calls it)
)

PROMPT = "Photosynthesis is the process by which"
QUESTION = [{"role": "user", "content": "What is the capital of France? Answer with one word."}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "population": {"type": "integer", "maximum": 9}},
    "required": ["city", "population"],
    "additionalProperties": False,
}


class ClientTestCase(unittest.TestCase):
    def setUp(self) -> None:
        # What is no TGI to the client is asked again, without what it lacks: that must not happen.
        warnings.simplefilter("error", UserWarning)
        self.addCleanup(warnings.resetwarnings)
        self.client = InferenceClient(TGI_URL)


class TextGenerationTest(ClientTestCase):
    def test_a_text_is_continued(self) -> None:
        text = self.client.text_generation(PROMPT, max_new_tokens=12, return_full_text=False)
        self.assertIn("plants", text)
        full = self.client.text_generation(PROMPT, max_new_tokens=12, return_full_text=True)
        self.assertEqual(full, PROMPT + text)
        at_its_path = InferenceClient(f"{TGI_URL}/generate").text_generation(PROMPT, max_new_tokens=12)
        self.assertEqual(at_its_path, text)

    def test_details_and_a_stream_are_the_same_text(self) -> None:
        options = {"max_new_tokens": 16, "do_sample": True, "seed": 3, "top_p": 0.9, "return_full_text": False}
        whole = self.client.text_generation(PROMPT, details=True, top_n_tokens=2, **options)
        details = whole.details
        self.assertEqual((details.generated_tokens, details.finish_reason, details.seed), (16, "length", 3))
        self.assertEqual("".join(token.text for token in details.tokens), whole.generated_text)
        self.assertEqual([len(alternatives) for alternatives in details.top_tokens], [2] * 16)
        events = list(self.client.text_generation(PROMPT, details=True, stream=True, **options))
        self.assertEqual([event.token.id for event in events], [token.id for token in details.tokens])
        self.assertEqual([event.index for event in events], list(range(1, 17)))
        *others, last = events
        self.assertTrue(all(event.details is None and event.generated_text is None for event in others))
        self.assertEqual(last.generated_text, whole.generated_text)
        self.assertEqual((last.details.finish_reason, last.details.generated_tokens), ("length", 16))
        pieces = list(self.client.text_generation(PROMPT, stream=True, **options))
        self.assertEqual("".join(pieces), whole.generated_text)

    def test_a_text_that_ends_by_itself_has_its_end_as_the_last_token(self) -> None:
        chat = "<|im_start|>user\nWhat is the capital of France? Answer with one word.<|im_end|>\n<|im_start|>assistant\n"
        whole = self.client.text_generation(chat, details=True, max_new_tokens=40, return_full_text=False)
        self.assertEqual(whole.details.finish_reason, "eos_token")
        last = whole.details.tokens[-1]
        self.assertEqual((last.text, last.special), ("<|im_end|>", True))
        self.assertIn("Paris", whole.generated_text)
        text = "".join(token.text for token in whole.details.tokens if not token.special)
        self.assertEqual(text, whole.generated_text)

    def test_a_stop_text_ends_the_text_and_belongs_to_it(self) -> None:
        options = {"max_new_tokens": 24, "return_full_text": False}
        whole = self.client.text_generation(PROMPT, **options)
        stop = whole.split()[2]
        stopped = self.client.text_generation(PROMPT, stop=[stop], details=True, **options)
        self.assertEqual(stopped.details.finish_reason, "stop_sequence")
        self.assertEqual(stopped.generated_text, whole[: whole.index(stop) + len(stop)])

    def test_a_text_holds_to_its_grammar(self) -> None:
        prompt = "The capital of France, as JSON: "
        for grammar in (
            {"type": "json", "value": SCHEMA},
            {"type": "json_schema", "value": {"name": "place", "schema": SCHEMA}},
        ):
            text = self.client.text_generation(
                prompt, grammar=grammar, max_new_tokens=60, return_full_text=False
            )
            self.assertEqual(list(json.loads(text)), ["city", "population"])
        grammar = {"type": "regex", "value": "[0-9]{3}-[a-c]{2}"}
        options = {"grammar": grammar, "do_sample": True, "seed": 1, "return_full_text": False}
        self.assertRegex(self.client.text_generation(prompt, **options), "^[0-9]{3}-[a-c]{2}$")
        streamed = "".join(self.client.text_generation(prompt, stream=True, **options))
        self.assertRegex(streamed, "^[0-9]{3}-[a-c]{2}$")

    def test_the_best_of_several_is_answered(self) -> None:
        answer = self.client.text_generation(PROMPT, best_of=2, do_sample=True, max_new_tokens=6, details=True)
        (other,) = answer.details.best_of_sequences

        def mean(tokens: list) -> float:
            return sum(token.logprob for token in tokens) / len(tokens)

        self.assertGreaterEqual(mean(answer.details.tokens), mean(other.tokens))

    def test_errors_are_of_the_clients_classes_and_name_the_field(self) -> None:
        for options, says in (
            ({"temperature": 3.0}, "temperature must be from 0 to 2"),
            ({"typical_p": 0.5}, "typical_p is not supported"),
            ({"watermark": True}, "watermark is supported only as false"),
            ({"max_new_tokens": 5000}, "exceed the context"),
            ({"grammar": {"type": "regex", "value": "("}}, "parameters.grammar"),
        ):
            for stream in (False, True):
                with self.assertRaises(ValidationError) as raised:
                    list(self.client.text_generation(PROMPT, stream=stream, **options))
                self.assertIn(says, str(raised.exception))
        with self.assertRaises(ValidationError) as raised:
            InferenceClient(URL).text_generation(PROMPT)
        self.assertIn("the request names no model; served are", str(raised.exception))


class ServerTest(ClientTestCase):
    def test_the_model_and_its_health_are_told(self) -> None:
        client = InferenceClient(TGI_URL, provider="hf-inference")
        info = client.get_endpoint_info()
        self.assertEqual((info["model_id"], info["max_total_tokens"]), (CHAT_MODEL, 512))
        self.assertTrue(client.health_check())


class ChatCompletionTest(ClientTestCase):
    def test_a_chat_is_answered_and_streamed(self) -> None:
        options = {"messages": QUESTION, "max_tokens": 24, "temperature": 0}
        # Without a model the client says `dummy`, which is another name of the only one here.
        for model in (CHAT_MODEL, None):
            answer = self.client.chat_completion(model=model, **options)
            self.assertIn("Paris", answer.choices[0].message.content)
            self.assertEqual(answer.choices[0].finish_reason, "stop")
            chunks = self.client.chat_completion(model=model, stream=True, **options)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            self.assertEqual(text, answer.choices[0].message.content)

    def test_a_model_that_is_not_there_is_named(self) -> None:
        with self.assertRaises(HfHubHTTPError) as raised:
            self.client.chat_completion(QUESTION, model="gpt-5", max_tokens=2)
        self.assertEqual(raised.exception.response.status_code, 404)
        self.assertIn("there is no model `gpt-5`", raised.exception.response.text)


if __name__ == "__main__":
    unittest.main()
