"""One stream with and without drafts from the text so far, where the answer repeats the prompt and where it does not."""

from engines import Bench
from paired import Table, alternate, ratios, spread

DRAFT_TOKENS = 7
TEXT = (
    "The harbour of Lindholm was dug in 1623, when the old river mouth had filled with sand. For two hundred years it "
    "sent timber, tar and dried fish to the cities of the south, and brought back salt, cloth and wine. The railway "
    "took most of that trade away in 1871. Today nine boats still go out before sunrise, and the last of the three "
    "shipyards repairs wooden yachts for owners who live far from the sea."
)
CODE = """def mean_speed(samples, limit):
    total = 0.0
    count = 0
    for sample in samples:
        if sample.speed > limit:
            continue
        total += sample.speed
        count += 1
    if count == 0:
        return None
    return total / count
"""
TASKS = {
    "repeats a text": (f"Repeat the following text word for word:\n\n{TEXT}", 96),
    "changes a name in code": (f"Rename `total` to `speed_sum` in this code. Answer with the code:\n\n{CODE}", 80),
    "explains": ("Explain how a bicycle stays upright while it moves.", 128),
    "tells a story": ("Write a story about a lighthouse keeper who finds a letter.", 128),
}
"""By what the answer does: the wish, and tokens of the answer, fewer than it takes to come to its end."""


def measure(bench: Bench, rounds: int) -> list[Table]:
    """One table."""
    table = Table(
        "Drafts from the text so far, one stream",
        f"Through HTTP, `INFERENCE_SPECULATIVE_TOKENS={DRAFT_TOKENS}` against 0, greedy: tokens a second from the "
        "request to the last token. The prompt is known from the round that is thrown away.",
        ["the answer", "tokens/s, no drafts", "tokens/s, drafts", "ratio"],
    )
    without, drafting = bench.gateway(rows=1), bench.gateway(rows=1, draft_tokens=DRAFT_TOKENS)
    for name, (wish, tokens) in TASKS.items():
        text = f"<|im_start|>user\n{wish}<|im_end|>\n<|im_start|>assistant\n"
        request = [{"text": text, "tokens": tokens}]
        runs = {
            kind: lambda server=server: {"rate": server.load(request, 1)["tokens_per_second"]}
            for kind, server in {"without": without, "drafting": drafting}.items()
        }
        results = alternate(rounds, lambda: None, runs)
        before, after = results["without"]["rate"], results["drafting"]["rate"]
        table.add(name, spread(before), spread(after), spread(ratios(after, before), 3))
    return [table]
