"""Profile the server's time for drawing a page: run one page's script again and again under cProfile.

    python benchmarks/dashboard_profile.py RUN feature --rounds 20

The script runs in Streamlit's test harness, of which nothing is counted. Times are processor time, so that other jobs
on the machine do not matter; the profiler itself takes about as much again where there are many small calls.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from dashboard_server import HEADING, described, machine
from streamlit import config
from streamlit.runtime.scriptrunner import script_runner
from streamlit.testing.v1 import AppTest

import dashboard
from dashboard.views import file_of
from sae_core.foundation.files.whole_files import read_table
from sae_core.foundation.run import Run

APP = Path(dashboard.__file__).parent / "app.py"


def main() -> None:
    """Profile one page and print what takes longest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("page", help="A folder of dashboard/views.")
    parser.add_argument("--ensemble", default="bagged")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--lines", type=int, default=35)
    parser.add_argument("--order", default="cumulative", help="What the lines are sorted by: cumulative or tottime.")
    options = parser.parse_args()
    run = Run.open(options.run)
    atoms = read_table(run.ensemble(options.ensemble).atoms)
    alive = atoms["feature"][~atoms["dead"]].to_numpy()
    # Processor time, so that other jobs on the machine do not count.
    profile, milliseconds = cProfile.Profile(time.thread_time), []
    profiled = script_runner.exec_func_with_error_handling

    def timed(function: Any, context: Any) -> Any:
        began = time.thread_time()
        try:
            return profile.runcall(profiled, function, context) if warm else profiled(function, context)
        finally:
            milliseconds.append(1000 * (time.thread_time() - began))

    config.set_option("runner.magicEnabled", False)  # as the program serves it
    sys.argv = ["app.py", str(options.run)]
    warm = False
    app = AppTest.from_file(str(APP), default_timeout=600)
    app.query_params["ensemble"] = options.ensemble
    app.run()
    script_runner.exec_func_with_error_handling = timed
    if options.page != "overview":
        app.switch_page(file_of(options.page))
    for number in range(options.rounds + 1):
        if options.page == "feature":
            app.query_params["feature"] = str(np.random.default_rng(number).choice(alive))
        app.run()
        warm = True
    print(machine(), HEADING, sep="\n\n")
    print(described(f"{options.page}, first", milliseconds[:1]))
    print(described(f"{options.page}, under the profiler", milliseconds[1:]))
    pstats.Stats(profile).sort_stats(options.order).print_stats(options.lines)


if __name__ == "__main__":
    main()
