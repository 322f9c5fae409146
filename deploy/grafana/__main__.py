"""`python -m deploy.grafana` writes deploy/grafana/dashboards/*.json from the tables beside this file."""

import json
from pathlib import Path

from deploy.grafana import live_accuracy, models, service, training
from deploy.grafana.panels import Board, board_json

FOLDER = Path(__file__).parent / "dashboards"
BOARDS: tuple[Board, ...] = (service.BOARD, models.BOARD, live_accuracy.BOARD, training.BOARD)


def written(board: Board) -> str:
    """What its file says."""
    return json.dumps(board_json(board), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for board in BOARDS:
        (FOLDER / f"{board.file}.json").write_text(written(board))
        print(FOLDER.name, board.file)
