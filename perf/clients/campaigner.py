"""A process that is one part of a fault campaign without sockets."""

import msgspec

from perf.campaign import Campaign
from perf.clients.worker import answer_commands, settings


def main(messages: int, faults: int, seed: int) -> None:
    """Go on a step at a time; the share that is done is 1 when the findings can be asked for."""
    campaign = Campaign(messages=messages, faults=faults, seed=seed)
    steps = campaign.steps()
    answer_commands(
        {
            "step": lambda: next(steps, 1.0),
            "findings": lambda: msgspec.to_builtins(campaign.findings()._asdict()),
        },
        {},
    )


if __name__ == "__main__":
    main(**settings())
