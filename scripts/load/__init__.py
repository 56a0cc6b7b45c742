"""The load test, `make load`: what the gateway promises when it ends, when clients leave, and when too many come.

    targets ─▶ attack (vegeta) ─▶ gateway (a release build, the real model)
                  │ results           │ metrics, readiness, memory
                  └──▶ answers ──▶ drain, disconnects, overload ──▶ marks: PASS or FAIL, and the exit code

vegeta keeps whole bodies, so each stream is looked at to its end mark; its clients leave by running into a timeout.
"""
