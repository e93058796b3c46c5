"""What depends on whose models a chapter runs: figures and numbers of kept results, live counts."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt

from erdpaper import figures

OWN_MODEL = "fashion"


def show_kept(model: str) -> None:
    """Show the figures drawn of kept results; for another model than fashion say why not.

    Kept results are of Fashion-MNIST's models, and a page of another model must not present them.
    """
    if model == OWN_MODEL:
        plt.show()
        return
    plt.close("all")
    print(f"The figure here is of kept results of Fashion-MNIST, and is left out for {model}.")


def teller(model: str) -> Callable[[str], None]:
    """What prints numbers of kept results: `print` for fashion, nothing for another model.

    `regimes.system.announce` says so once a page.
    """
    return print if model == OWN_MODEL else lambda text: None


def show_counts(levels: Sequence[float], counts: Mapping[str, Sequence[int]], title: str) -> None:
    """Draw numbers of components by denoiser, one for each log-SNR of levels, and show them."""
    fig, axes = figures.grid(height=3.0)
    for name, found in counts.items():
        axes[0, 0].plot(levels, found, marker="o", linewidth=2, label=name)
    axes[0, 0].set_yscale("log")
    figures.plain_log(axes[0, 0].yaxis)
    figures.label(axes[0, 0], "log-SNR", r"$k_{0.99}$", title)
    figures.legend(fig, axes[0, 0], 2)
    plt.show()
