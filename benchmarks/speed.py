"""How fast training and forecasting are on this machine: ratios within one run, beside what one would otherwise run.

    python -m benchmarks.speed goals               what has a goal; about ten minutes
    python -m benchmarks.speed all --json F.json   everything; about half an hour
    python -m benchmarks.speed forecasts training  some of it, see below

Run alone on the machine. One thread each, so that figures are per core. Exits 1 where a goal was missed.

forecasts  every student: the paper's form, folded torch, ONNX, ONNX int8; batches of 1, 32, 256
limit      how near folded torch comes to the machine's GEMM rate
int8       eight-bit weights: time, size, and what they do to a forecast
serving    settings of an ONNX Runtime session
training   steps of student and teacher, and what each change gave
caching    a teacher's forecasts kept, or computed in every epoch
data       a million readings to windows
memory     peaks of training and serving
growth     with context, prototypes, horizon
peer       neuralforecast's TimeLLM, in an environment of its own
"""

from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks import speed_data, speed_forecast, speed_growth, speed_memory, speed_serving, speed_training
from benchmarks.measuring import Findings, machine, write_json
from benchmarks.speed_peer import against_neuralforecast
from benchmarks.verdicts import console

PARTS = {
    "forecasts": (speed_forecast.every_student,),
    "limit": (speed_forecast.near_the_limit,),
    "int8": (speed_forecast.eight_bits,),
    "serving": (speed_serving.settings,),
    "training": (speed_training.student_step, speed_training.teacher_step, speed_training.causal_step),
    "caching": (speed_training.kept_forecasts, speed_training.loading),
    "data": speed_data.ALL,
    "memory": (speed_memory.training, speed_memory.serving),
    "growth": (speed_growth.with_context, speed_growth.with_prototypes, speed_growth.with_horizon),
}
GOALS = (
    speed_forecast.bert_tiny_goals,
    speed_forecast.near_the_limit,
    speed_training.student_step,
    speed_training.teacher_step,
    speed_memory.training,
    speed_data.reading_and_windowing,
)
app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(help=__doc__)
def main(
    parts: Annotated[list[str], typer.Argument(help=f"goals, all, or some of {', '.join(PARTS)}, peer")],
    json: Annotated[Path | None, typer.Option(help="Write what was found here, too.")] = None,
    peer_python: Annotated[
        Path | None, typer.Option(help="Python of an environment with neuralforecast; one is made otherwise.")
    ] = None,
) -> None:
    torch.set_num_threads(1)
    described = machine()
    console.print(described, highlight=False)
    found: list[Findings] = []
    for work in _chosen(parts):
        found.append(work())
        found[-1].show()
    if {"all", "goals", "peer"} & set(parts):
        found.append(against_neuralforecast(peer_python))
        found[-1].show()
    if json is not None:
        write_json(json, described, found)
    missed = [goal for one in found for goal in one.goals if not goal.is_met]
    for goal in missed:
        console.print(str(goal))
    raise typer.Exit(1 if missed else 0)


def _chosen(parts: list[str]) -> list:
    if unknown := set(parts) - {*PARTS, "goals", "all", "peer"}:
        raise typer.BadParameter(
            f"there is no part {sorted(unknown)[0]}; there are goals, all, {', '.join(PARTS)}, peer"
        )
    names = list(PARTS) if "all" in parts else [part for part in parts if part in PARTS]
    chosen = [work for name in names for work in PARTS[name]]
    return chosen + [work for work in GOALS if "goals" in parts and work not in chosen]


if __name__ == "__main__":
    app()
