"""``python -m lit_basereward``: what can be answered without loading PyTorch is answered here."""

from __future__ import annotations

import sys

from lit_basereward import __version__

HELP = """\
usage: python -m lit_basereward COMMAND [--config FILE.yaml] [options]

Trains, evaluates and uses multimodal reward models.

commands:
  fit         train a reward model, with validation on the way
  validate    accuracy on data.val, source by source
  test        accuracy on data.test, source by source; writes results.json
  predict     rewards for the rows of data.predict, written as JSON lines

tools:
  calibrate      temperature and offset of a checkpoint's rewards, fitted on held-out rows and stored in it
  curate         corpora in, curated rows out: filters, decontamination, mixture, and a report of all of it
  doctor         what training a model costs, and proofs on it: nothing is silently wrong
  ensemble       reward models and a combiner, fitted on held-out rows, as one: a folder to test, predict and load
  export         a checkpoint as a Hugging Face folder, adapters merged, that `lit_basereward.load` reads back
  grpo           reinforcement learning of a policy or a judge, with TRL as the engine
  report SUITE   figures and a page of any model's rewards on a benchmark; compares two models
  serve          a model over HTTP: scores groups, is OpenRLHF's remote reward model, and has a page to try it

options:
  COMMAND --help              every setting of a command or tool
  COMMAND --model.help NAME   every setting of a class; also --model.head.help NAME and the like
  COMMAND --print_config      the settings in force as YAML, to start a config from
  --ckpt_path FILE            resume fit, or evaluate a checkpoint with the model section that it holds
  --debug                     show errors with their traceback
  --version                   show the version
  --help, -h                  show this text
"""


def main(args: list[str] | None = None) -> None:
    """Run the command line; see :func:`lit_basereward.cli.main`.

    Args:
        args: its arguments; None takes the program's own.
    """
    given = sys.argv[1:] if args is None else list(args)
    if given[:1] in ([], ["--help"], ["-h"]):
        print(HELP, end="")
    elif given[:1] == ["--version"]:
        print(f"lit_basereward {__version__}")
    else:
        from lit_basereward.cli import main as run

        run(args)


if __name__ == "__main__":
    main()
