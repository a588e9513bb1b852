"""Show a figure, or a table of a committed report: in the page in Jupyter, else as a file in build/pictures, or as text.

`prepare_page` makes the settings that every page needs.
"""

import base64
import io
import sys
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training.reports.figures import table

PICTURES = Path("build/pictures")


def prepare_page() -> None:
    """One CPU thread, no messages and progress bars of transformers and datasets, and the course's plot style."""
    import datasets
    import torch
    import transformers

    from training.reports.records import use_style

    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    use_style()


def show(figure: Figure, name: str) -> None:
    """Display `figure` and close it; its first title is the text for those who cannot see it."""
    figure.tight_layout()
    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})  # savefig draws everything twice
    title = " ".join(figure.axes[0].get_title(loc="left").split() or [name])
    plt.close(figure)
    if "ipykernel" in sys.modules:
        from IPython.display import display

        display({"image/png": base64.b64encode(file.getvalue()).decode(), "text/plain": title}, raw=True)
        return
    PICTURES.mkdir(parents=True, exist_ok=True)
    path = PICTURES / f"{name}.png"
    path.write_bytes(file.getvalue())
    print(f"picture: {path}")


def show_table(key: str) -> None:
    """Display a table of a committed report; `key` is that of a marker (see training/reports/figures.py): `PATH; COLUMN; COLUMN`.

    On a rendered page the marker stands around it, so a test notices when the report has changed.
    """
    text = f"<!--table {key}-->\n{table(key)}\n<!--/table-->"
    if "ipykernel" in sys.modules:
        from IPython.display import display

        display({"text/markdown": text, "text/plain": text}, raw=True)
        return
    print(table(key))
