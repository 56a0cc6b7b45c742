"""What the load test makes of answers, metrics and times, without a gateway: also that it sees what is torn."""

import base64
import contextlib
import io
import json
import math
import unittest

import checkout  # noqa: F401

from load.answers import read_answer
from load.attack import Pace, Result
from load.exposition import Exposition
from load.marks import Marks, quantile, spread_ms
from load.overload import goodput, growth
from load.targets import CHAT, NATIVE, Target, in_both_dialects, vegeta_lines
from load.watch import Sample

NATIVE_STREAM = (
    b'data: {"text":"a"}\n\ndata: {"text":" b\\n"}\n\n'
    b'data: {"metadata":{"tokens_generated":2,"finish_reason":"length"}}\n\n'
)
CHAT_STREAM = (
    b'data: {"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}\n\n'
    b": still there\n\n"
    b'data: {"choices":[{"delta":{"content":"a b"},"finish_reason":null}],"usage":null}\n\n'
    b'data: {"choices":[{"delta":{},"finish_reason":"length"}],"usage":null}\n\n'
    b'data: {"choices":[],"usage":{"completion_tokens":2}}\n\n'
    b"data: [DONE]\n\n"
)
STREAMS = {NATIVE: NATIVE_STREAM, CHAT: CHAT_STREAM}


def target(dialect: str = NATIVE, tokens: int = 2, streams: bool = True) -> Target:
    return Target(dialect, words=3, tokens=tokens, streams=streams)


def result(ended: float, status: int = 200, began: float = 0.0, body: bytes = NATIVE_STREAM) -> Result:
    return Result(target(), began, ended - began, status, "", body, {})


class AnswersTest(unittest.TestCase):
    def test_a_whole_stream_lacks_nothing(self) -> None:
        for dialect, body in STREAMS.items():
            answer = read_answer(target(dialect), body, "")
            self.assertEqual((answer.lacks, answer.tokens, answer.begun), ("", 2, True), dialect)

    def test_a_stream_that_is_cut_anywhere_is_not_whole(self) -> None:
        for dialect, body in STREAMS.items():
            for length in range(len(body)):
                self.assertNotEqual(read_answer(target(dialect), body[:length], "").lacks, "", body[:length])

    def test_what_is_wrong_is_named(self) -> None:
        cases = [
            (NATIVE_STREAM, "unexpected EOF", "the connection failed: unexpected EOF"),
            (NATIVE_STREAM + b'data: {"error":{"code":"shutting_down"}}\n\n', "", "shutting_down"),
            (NATIVE_STREAM.replace(b"length", b"stop"), "", "finish_reason is stop"),
            (NATIVE_STREAM.replace(b":2", b":1"), "", "1 tokens and not 2"),
            (NATIVE_STREAM + b'data: {"text":"c"}\n\n', "", "no end mark"),
        ]
        for body, failure, words in cases:
            self.assertIn(words, read_answer(target(), body, failure).lacks)

    def test_text_has_begun_with_the_first_piece_and_not_with_the_role(self) -> None:
        role, _, rest = CHAT_STREAM.partition(b"\n\n")
        self.assertFalse(read_answer(target(CHAT), role + b"\n\n", "timeout").begun)
        first = b"\n\n".join(CHAT_STREAM.split(b"\n\n")[:3]) + b"\n\n"
        self.assertTrue(read_answer(target(CHAT), first, "timeout").begun, rest)

    def test_an_answer_that_is_not_streamed_has_all_its_tokens_or_is_not_whole(self) -> None:
        for tokens, whole in ((2, True), (1, False)):
            native = {"metadata": {"tokens_generated": tokens, "finish_reason": "length"}}
            chat = {"choices": [{"finish_reason": "length"}], "usage": {"completion_tokens": tokens}}
            for dialect, body in ((NATIVE, native), (CHAT, chat)):
                answer = read_answer(target(dialect, streams=False), json.dumps(body).encode(), "")
                self.assertEqual(answer.lacks == "", whole, answer)
        self.assertTrue(read_answer(target(streams=False), b"", "timeout").lacks)


class TargetsTest(unittest.TestCase):
    def test_each_target_has_its_number_and_a_prompt_of_its_own(self) -> None:
        targets = in_both_dialects(40, words=5, tokens=[1, 2, 3], whole=True)
        lines = [json.loads(line) for line in vegeta_lines(targets, "127.0.0.1:1", seed="a").splitlines()]
        self.assertEqual([line["url"].partition("#")[2] for line in lines], [str(n) for n in range(40)])
        bodies = [base64.b64decode(line["body"]) for line in lines]
        self.assertEqual(len(set(bodies)), len(bodies))
        kinds = {(one.dialect, one.streams, one.tokens) for one in targets}
        self.assertEqual(len(kinds), 2 * 2 * 3, "all combinations are there")
        self.assertEqual(bodies, [base64.b64decode(json.loads(line)["body"]) for line in
                                  vegeta_lines(targets, "127.0.0.1:1", seed="a").splitlines()])  # fmt: skip

    def test_time_is_not_what_ends_targets_that_are_sent_once(self) -> None:
        for pace in (Pace.of_count(64, rate=20), Pace.at_once(64)):
            self.assertTrue(pace.once)
            self.assertGreaterEqual(pace.seconds, 60)


class ExpositionTest(unittest.TestCase):
    TEXT = (
        "# HELP inference_gateway_requests_running x\n"
        'inference_gateway_generations_total{finish_reason="cancelled",model="a"} 3\n'
        'inference_gateway_generations_total{finish_reason="length",model="a"} 5\n'
        'inference_gateway_step_duration_seconds_bucket{model="a",le="0.01"} %d\n'
        'inference_gateway_step_duration_seconds_bucket{model="a",le="0.1"} %d\n'
        'inference_gateway_step_duration_seconds_bucket{model="a",le="+Inf"} %d\n'
        "process_open_fds 7\n"
    )

    def test_samples_are_summed_by_their_labels(self) -> None:
        found = Exposition(self.TEXT % (1, 1, 1))
        self.assertEqual(found.total("generations_total"), 8)
        self.assertEqual(found.total("generations_total", finish_reason="cancelled"), 3)
        self.assertEqual(found.total("process_open_fds"), 7)
        self.assertEqual(found.total("requests_waiting"), 0)

    def test_the_longest_observation_is_one_since_before(self) -> None:
        before = Exposition(self.TEXT % (1, 2, 2))
        for counts, longest in (((1, 2, 2), 0), ((4, 5, 5), 0.01), ((4, 6, 6), 0.1), ((4, 6, 7), math.inf)):
            after = Exposition(self.TEXT % counts)
            self.assertEqual(after.longest("step_duration_seconds", before), longest, counts)


class NumbersTest(unittest.TestCase):
    def test_quantiles_are_numbers_that_were_measured(self) -> None:
        numbers = [5.0, 1.0, 4.0, 2.0, 3.0]
        self.assertEqual([quantile(numbers, part) for part in (0.0, 0.5, 0.99, 1.0)], [1, 3, 5, 5])
        self.assertTrue(math.isnan(quantile([], 0.5)))
        self.assertEqual(spread_ms([0.001, 0.002]), "p50 1.0 ms, p99 2.0 ms, max 2.0 ms")

    def test_goodput_counts_whole_answers_by_their_end(self) -> None:
        torn = NATIVE_STREAM[:-4]
        results = [result(2), result(5), result(11), result(30), result(7, 429), result(8, body=torn)]
        found = goodput(results, begin_seconds=4, end_seconds=14)
        self.assertEqual((found.requests_per_second, found.tokens_per_second), (0.2, 0.4))

    def test_growth_is_the_most_after_over_the_most_before(self) -> None:
        samples = [Sample(at, 0, 0, size) for at, size in ((1, 10), (2, 12), (3, 11), (4, 15), (5, 13))]
        self.assertEqual(growth(samples, warm=3), (3, 12))

    def test_one_missed_mark_fails_the_run_and_so_does_none_at_all(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            marks = Marks()
            marks.mark(True, "this", "so")
            self.assertEqual(marks.conclude(), 0)
            marks.mark(False, "that", "otherwise")
            self.assertEqual(marks.conclude(), 1)
            self.assertEqual(Marks().conclude(), 1)
        self.assertIn("FAIL  that: otherwise", printed.getvalue())


if __name__ == "__main__":
    unittest.main()
