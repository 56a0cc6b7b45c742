"""The command that runs the tests of docs/reliability.md."""

import contextlib
import io
import unittest

import checkout  # first: it makes scripts/ importable

import faults

PAGE = """
| | fault | what comes of it | tests |
| --- | --- | --- | --- |
| 3 | a body without an end | 413 | `a_body_that_never_ends_is_refused`, `nobody_else_has_to_wait_for_it` |
| 19 | swaps (`make soak`) | nothing | `make soak` |
"""


class Faults(unittest.TestCase):
    """What is read and what is told."""

    def test_rows_have_the_names_of_their_tests(self) -> None:
        rows = faults.rows(PAGE)
        self.assertEqual([row.number for row in rows], [3, 19])
        self.assertEqual(rows[0].tests, ["a_body_that_never_ends_is_refused", "nobody_else_has_to_wait_for_it"])
        self.assertEqual(rows[1].tests, [])

    def test_the_page_of_the_project_has_a_test_for_each_row(self) -> None:
        rows = faults.rows(faults.PAGE.read_text())
        self.assertEqual(sorted(row.number for row in rows), list(range(1, 51)))
        for row in rows:
            self.assertTrue(row.tests, f"row {row.number}")

    def test_numbers_are_lists_and_ranges(self) -> None:
        self.assertEqual(faults.wanted("36-38,3"), {3, 36, 37, 38})
        for wrong in ("", "a", "3-", "-3"):
            with self.assertRaises(ValueError, msg=wrong):
                faults.wanted(wrong)

    def test_what_programs_print_is_understood(self) -> None:
        listed = "http::tests::a_is_b: test\nc_is_d: test\n\n2 tests, 0 benchmarks\n"
        self.assertEqual(faults.paths(listed), {"a_is_b": "http::tests::a_is_b", "c_is_d": "c_is_d"})
        lines = ["running 3 tests\n", "test x::a_is_b ... ok\n", "test c_is_d ... FAILED\n", "test e ... ignored, long\n"]
        self.assertEqual(faults.outcomes(iter(lines)), {"a_is_b": "ok", "c_is_d": "FAILED", "e": "ignored"})

    def test_a_test_that_failed_or_is_not_there_is_told(self) -> None:
        rows = faults.rows(PAGE)[:1]
        good = dict.fromkeys(rows[0].tests, "ok")
        for change, well in ({}, True), ({"nobody_else_has_to_wait_for_it": "FAILED"}, False):
            with contextlib.redirect_stdout(io.StringIO()) as told:
                self.assertEqual(faults.report(rows, good | change), well)
            self.assertEqual("FAILED" in told.getvalue(), not well)
        with contextlib.redirect_stdout(io.StringIO()) as told:
            self.assertFalse(faults.report(rows, {}))
        self.assertIn("NOT FOUND", told.getvalue())
        with contextlib.redirect_stdout(io.StringIO()):
            self.assertFalse(faults.report(faults.rows(PAGE)[1:], {}), "a row without a test")


if __name__ == "__main__":
    unittest.main()
