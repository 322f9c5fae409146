"""The command line: models, teacher, distil, pipeline, sweep, evaluate, publish, promote, rollback."""

import json
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from forecasting.bundle import read_bundle
from forecasting.errors import GlucastError, InvalidSetting, RegistryUnavailable
from forecasting.gate import GateName
from forecasting.windows import Part
from trainer.catalogue import BACKBONES, Role, find_backbone, require_pair, require_roles
from trainer.kept import results_folder
from trainer.options import DATASET_HELP, GRID, WEIGHTS, DataDir, Given, RegistryUri, Runs, takes_run_options
from trainer.settings import TEACHER_DEFAULTS, ModelSettings, PipelineSettings, StudySettings, SweepSettings
from trainer.sweep_record import SweepRecord, pending_sweeps, read_record
from trainer.tables import (
    MODELS_LEGEND,
    cost_table,
    models_json,
    models_markdown,
    models_table,
    plan_table,
    sweep_plan_table,
)
from trainer.terminal import (
    console,
    news,
    print_evaluation,
    print_leaderboard,
    print_outcome,
    print_promotion,
    print_published,
    say,
)

# torch and ray take seconds to import: commands import what trains when they run, so that --help answers at once.

app = typer.Typer(
    help="Train Time-LLM teachers for blood glucose, distil students, score and publish them. Research prototype, "
    "not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer()
app.add_typer(models_app, name="models")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
GATE_HELP = "The first bar of the gate: ridge, or persistence, which is lower; the version's tags say so."


@models_app.callback(invoke_without_command=True)
def models(
    context: typer.Context,
    as_json: AsJson = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the README's table.")] = False,
) -> None:
    """Show the supported backbones: sizes at the default settings, and roles. `models check NAME` tries one."""
    if context.invoked_subcommand is not None:
        return
    if as_json:
        typer.echo(json.dumps(models_json(), indent=1))
        return
    with console.status("counting parameters"):
        from trainer.model_sizes import size_of

        sizes = {name: size_of(row) for name, row in BACKBONES.items()}
    if as_markdown:
        typer.echo(models_markdown(sizes))
        return
    console.print(models_table(sizes))
    console.print(MODELS_LEGEND, highlight=False)


@models_app.command()
def check(
    name: Annotated[str, typer.Argument(help="Short name, full id, or a folder in Hugging Face layout.")],
    weights: Annotated[str, typer.Option(help=f"Where the weights come from: {WEIGHTS}")] = "hub",
    role: Annotated[
        Literal["teacher", "student"] | None,
        typer.Option(help="With the default settings of which; student where it may be one."),
    ] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Backbone layers that are kept.")] = None,
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Of the backbone's weights.")] = "float32",
) -> None:
    """Load a backbone, train a few steps, forecast, export it where it may be a student; say what that costs here."""
    from trainer.model_sizes import measure_cost

    row = find_backbone(name)
    role = role or ("student" if "student" in row.roles else "teacher")
    require_roles(row, role)
    kind = TEACHER_DEFAULTS if role == "teacher" else {}
    settings = ModelSettings.model_validate(
        {**kind, "backbone": name, "weights": weights, "num_layers": layers, "dtype": dtype}
    )
    with console.status(f"checking {row.comment}"):
        cost = measure_cost(row, settings)
    console.print(cost_table(row, cost))


@app.command()
@takes_run_options
def teacher(
    given: Given,
    export: Annotated[
        bool,
        typer.Option("--export", help="Stand-alone Time-LLM: a bundle that evaluate, publish and the service take."),
    ] = False,
) -> None:
    """Train a teacher on everybody's training part, on Ray, and print its folder."""
    settings = given.settings()
    entry = find_backbone(settings.teacher.backbone)
    roles: tuple[Role, ...] = ("time_llm", "teacher") if export else ("teacher",)
    for sentence in require_roles(entry, *roles, allow_unsupported=settings.allow_unsupported):
        say(sentence)
    from trainer.pipeline import check_models, open_cohort
    from trainer.progress import shown_progress
    from trainer.stages import stages_on_ray

    cohort = open_cohort(settings, say)
    check_models(settings)
    with shown_progress(news) as watch, stages_on_ray(cohort, settings.runs, say, watch) as stages:
        folder = stages.teacher(settings)
    if export:
        from trainer.teacher import export_trained

        folder = export_trained(folder, settings.teacher, settings.teacher_training.seed)
    typer.echo(folder)


@app.command()
@takes_run_options
def distil(given: Given) -> None:
    """Distil students from a teacher (trained first if there is no equal one) and print their folders."""
    settings = given.settings()
    for sentence in require_pair(settings.teacher.backbone, settings.student.backbone, settings.allow_unsupported):
        say(sentence)
    from trainer.pipeline import distil_students
    from trainer.progress import shown_progress

    with shown_progress(news) as watch:
        folders = distil_students(settings, say, watch)
    for folder in folders:
        typer.echo(folder)


@app.command()
@takes_run_options
def pipeline(
    given: Given,
    registry: RegistryUri = None,
    gate: Annotated[GateName | None, typer.Option(help=GATE_HELP)] = None,
    dry_run: Annotated[bool, typer.Option(help="Print the plan and touch nothing.")] = False,
) -> None:
    """The whole path: teacher, cached forecasts, students, scores, publication, the gate."""
    settings = given.settings_of(PipelineSettings, None, {"gate": gate})
    for sentence in require_pair(settings.teacher.backbone, settings.student.backbone, settings.allow_unsupported):
        say(sentence)
    if dry_run:
        _print_plan(settings)
        return
    from trainer.pipeline import run_pipeline
    from trainer.progress import shown_progress

    with shown_progress(news) as watch:
        outcomes = run_pipeline(settings, _writable_registry(registry), say, watch)
    for outcome in outcomes:
        print_outcome(outcome)


@app.command()
@takes_run_options
def study(
    given: Given,
    file: Annotated[Path | None, typer.Argument(help="Study file (TOML), such as trainer/runs/study.toml.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the study; what it writes is called so.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The comparisons for machines.")] = False,
) -> None:
    """Does distillation help? Every arm on the same windows, against the arm that had the same data.

    Persistence, ridge, boosting, a plain network, teachers, and students: of the population and personal, alone,
    fine-tuned and distilled, on all data and on few days. What ended is kept: run it again and it goes on.
    """
    settings = given.settings_of(StudySettings, file, {"name": name})
    for sentence in require_pair(settings.teacher.backbone, settings.student.backbone, settings.allow_unsupported):
        say(sentence)
    from trainer.progress import shown_progress
    from trainer.study import run_study
    from trainer.study_results import print_study, study_json

    with shown_progress(news) as watch:
        records = run_study(settings, say, watch)
    if as_json:
        typer.echo(json.dumps(study_json(records), indent=1))
        return
    print_study(records)


@app.command()
@takes_run_options
def sweep(
    given: Given,
    file: Annotated[Path | None, typer.Argument(help="Sweep file (TOML), such as trainer/runs/sweep.toml.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the sweep, in MLflow too.", rich_help_panel=GRID)] = None,
    pairs: Annotated[
        str | None, typer.Option(help="bert:bert-tiny,albert:minilm: teachers with students.", rich_help_panel=GRID)
    ] = None,
    students: Annotated[
        str | None, typer.Option(help="bert-tiny,tinybert: students of the one teacher.", rich_help_panel=GRID)
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="1,2,3", rich_help_panel=GRID)] = None,
    distil_weights: Annotated[
        str | None, typer.Option(help="0,0.5: weights of the teacher; 0 is the student alone.", rich_help_panel=GRID)
    ] = None,
    learning_rates: Annotated[str | None, typer.Option(help="1e-3,2e-3", rich_help_panel=GRID)] = None,
    early_stopping: Annotated[
        str | None, typer.Option(help="asha, or none where arms are to be compared.", rich_help_panel=GRID)
    ] = None,
    cpus_per_trial: Annotated[int | None, typer.Option(help="Also its threads.", rich_help_panel=GRID)] = None,
    gpus_per_trial: Annotated[
        float | None, typer.Option(help="0.25: four trials on a GPU.", rich_help_panel=GRID)
    ] = None,
    memory_per_trial_gb: Annotated[float | None, typer.Option(help="Set aside for it.", rich_help_panel=GRID)] = None,
    registry: RegistryUri = None,
    gate: Annotated[GateName | None, typer.Option(help=GATE_HELP)] = None,
    dry_run: Annotated[bool, typer.Option(help="Print the plan and touch nothing.")] = False,
) -> None:
    """Train students over patients, pairs, weights, rates and seeds; publish the best of each patient.

    With RAY_ADDRESS, or under `ray job submit`, on that cluster; else on this machine.

    Run it again to go on where it was cut off.

    Exit code 1 where a trial failed or the registry does not have everything.
    """
    grid = {
        "name": name,
        "gate": gate,
        "sweep.pairs": _pairs(pairs),
        "sweep.students": _listed(students),
        "sweep.seeds": _listed(seeds),
        "sweep.distil_weights": _listed(distil_weights),
        "sweep.learning_rates": _listed(learning_rates),
        "sweep.early_stopping": early_stopping,
        "sweep.cpus_per_trial": cpus_per_trial,
        "sweep.gpus_per_trial": gpus_per_trial,
        "sweep.memory_per_trial_gb": memory_per_trial_gb,
    }
    settings = given.settings_of(SweepSettings, file, grid)
    from trainer.progress import shown_progress
    from trainer.sweep import plan_sweep, run_sweep

    if dry_run:
        console.print(sweep_plan_table(plan_sweep(settings, say)))
        return
    place = _writable_registry(registry)
    with shown_progress(news) as watch:
        record, folder = run_sweep(settings, place, say, watch)
    print_leaderboard(record, folder)
    _publish_sweep(record, folder, place)


def _publish_sweep(record: SweepRecord, folder: Path, registry: Any) -> None:
    from trainer.progress import shown_progress
    from trainer.sweep import publish_sweep

    try:
        with shown_progress(news) as watch:
            published = publish_sweep(record, folder, registry, say, watch)
    except RegistryUnavailable as error:
        raise RegistryUnavailable(
            f"{error}; all results are kept in {folder}: publish them later with "
            f"`python -m trainer publish --pending --runs {record.settings.runs}`"
        ) from error
    print_published(published)
    if record.failed:
        say(
            f"{len(record.failed)} of {len(record.trials)} trials failed: {record.failed[0].name}: "
            f"{record.failed[0].error}; run the sweep again to try them again"
        )
        raise typer.Exit(1)


def _listed(values: str | None) -> list[str] | None:
    return None if values is None else [value.strip() for value in values.split(",") if value.strip()]


def _pairs(pairs: str | None) -> list[dict[str, str]] | None:
    if pairs is None:
        return None
    split = [pair.partition(":") for pair in _listed(pairs) or []]
    return [{"teacher": teacher, "student": student} for teacher, _, student in split]


@app.command()
def evaluate(
    model: Annotated[str, typer.Option(help="name, name@alias, name/version, or the folder of a bundle.")],
    dataset: Annotated[str, typer.Option(help=DATASET_HELP)] = "virtual",
    data_dir: DataDir = None,
    patients: Annotated[str, typer.Option(help="'all', or ids separated by commas.")] = "all",
    part: Annotated[Part, typer.Option(help="Of everybody's timeline; read the test part once.")] = "test",
    max_windows: Annotated[int | None, typer.Option(min=1, help="Score at most so many, evenly spaced.")] = None,
    boosting: Annotated[bool, typer.Option(help="Beside LightGBM too: about a minute.")] = True,
    alarms: Annotated[bool, typer.Option(help="Warnings of lows too: every window of two parts is forecast.")] = True,
    report: Annotated[Path | None, typer.Option(help="Write a page with pictures (HTML) there.")] = None,
    registry: RegistryUri = None,
    as_json: AsJson = False,
) -> None:
    """Score a model on held-out data, per horizon and patient, beside persistence, ridge and LightGBM."""
    from forecasting.readers.datasets import load_cohort
    from trainer.assessment import MODEL, assess_bundle, share_unlike, unlike_sentences, write_bundle_page
    from trainer.progress import shown_progress

    bundle, named = _open_reference(model, registry)
    cohort = load_cohort(dataset, data_dir, patients, bundle.spec.shape.sampling_minutes)
    with shown_progress(news) as watch:
        found = assess_bundle(bundle, cohort, part, max_windows, boosting, alarms, say, watch)
    if report is not None:
        write_bundle_page(report, found, bundle)
    evaluation = found.evaluation.renamed(MODEL, bundle.spec.model)
    result = {"model": named, **evaluation.as_json(), "unlike": share_unlike(bundle, evaluation.scored)}
    if as_json:
        typer.echo(json.dumps(result, indent=1))
        return
    for sentence in (*result["left_out"], *unlike_sentences(bundle, evaluation.scored)):
        say(sentence)
    title = f"{bundle.spec.model} on the {part} part of {evaluation.dataset}, {len(evaluation.scored)} windows"
    print_evaluation(result, title)
    if report is not None:
        console.print(f"report   {report}", highlight=False, soft_wrap=True)


@app.command()
def publish(
    folder: Annotated[Path | None, typer.Argument(help="Folder of a student's bundle, as `distil` prints it.")] = None,
    pending: Annotated[
        bool, typer.Option("--pending", help="Publish every sweep that the registry does not have yet.")
    ] = False,
    runs: Runs = None,
    registry: RegistryUri = None,
) -> None:
    """Publish a bundle as the challenger of its model. Equal content is not published twice."""
    if pending == (folder is not None):
        raise InvalidSetting("say what to publish: the folder of a bundle, or --pending; one of the two")
    if pending:
        _publish_pending(results_folder() / (runs or PipelineSettings().runs), _writable_registry(registry))
        return
    from trainer.publication import publication_sentence, publish_bundle

    version, is_new = publish_bundle(_writable_registry(registry), read_bundle(folder))  # type: ignore[arg-type]
    typer.echo(publication_sentence(version, is_new))


def _publish_pending(runs: Path, registry: Any) -> None:
    folders = pending_sweeps(runs)
    if not folders:
        typer.echo(f"nothing is pending in {runs}")
    for folder in folders:
        record = read_record(folder)
        if record is not None:
            say(f"sweep {folder.name}")
            _publish_sweep(record, folder, registry)


@app.command()
def promote(
    model: Annotated[str, typer.Option(help="What to promote: name@challenger or name/version.")],
    dataset: Annotated[str | None, typer.Option(help="Only for a model made from a file: its path.")] = None,
    data_dir: DataDir = None,
    gate: Annotated[GateName, typer.Option(help=GATE_HELP)] = "ridge",
    registry: RegistryUri = None,
) -> None:
    """Make a version champion if it passes the gate on the calibration part of the people it was made for.

    Exit code 1 where it does not pass.
    """
    from forecasting.registry import Registry
    from trainer.publication import own_cohort
    from trainer.publication import promote as pass_gate

    place = Registry(registry)
    version = place.resolve(model)
    promotion = pass_gate(place, version, own_cohort(place.fetch(version), dataset, data_dir), gate)
    print_promotion(promotion)
    if not promotion.decision.passed:
        raise typer.Exit(1)


@app.command()
def rollback(
    model: Annotated[str, typer.Option(help="Name of the registered model.")], registry: RegistryUri = None
) -> None:
    """Make the previous champion champion again."""
    from forecasting.registry import Registry

    now, before = Registry(registry).roll_back(model)
    typer.echo(f"{model}: version {now.version} is champion again, version {before.version} is the previous one")


def _writable_registry(uri: str | None) -> Any:
    """The registry that a command writes to, made where it is a file that does not exist yet."""
    from forecasting.references import DEFAULT_URI
    from forecasting.registry import Registry

    base = results_folder()
    if base != Path():
        say(f"a Ray job: relative results go to {base}; MLFLOW_TRACKING_URI and GLUCAST_RUNS name other places")
        uri = uri or f"sqlite:///{base / DEFAULT_URI.removeprefix('sqlite:///')}"
    return Registry(uri, create=True)


def _print_plan(settings: PipelineSettings) -> None:
    from forecasting.readers.datasets import DATASETS, load_cohort

    data = settings.data
    about = f"{data.dataset}, patients {data.patients}"
    named = DATASETS.get(data.dataset)
    if named is not None and not named.bundled and data.data_dir is None:
        about += " (not bundled: give --data-dir before running)"
    else:
        cohort = load_cohort(data.dataset, data.data_dir, data.patients, settings.shape.sampling_minutes)
        about += f" ({len(cohort.chosen)} chosen, the teacher learns from {len(cohort.everyone)})"
    console.print(plan_table(settings, about))


def _open_reference(model: str, registry: str | None) -> tuple[Any, dict[str, str]]:
    from forecasting.registry import Registry

    if Path(model).is_dir():
        bundle = read_bundle(Path(model))
        return bundle, {"name": bundle.spec.model, "version": "", "digest": bundle.digest}
    place = Registry(registry)
    version = place.resolve(model)
    return place.fetch(version), {"name": version.name, "version": version.version, "digest": version.digest}


def main() -> None:
    """Run a command; an error of ours is one sentence on standard error and exit code 1."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except GlucastError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)


def _terminate(*_: object) -> None:
    """How `ray job stop` and container runtimes ask: unwind, so that nothing is left half written."""
    sys.stderr.write("terminated: the same command goes on from here\n")
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
