"""What depends on whose models a chapter runs: figures, numbers and claims of kept results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt

from erdpaper import claims, figures
from erdpaper.datasets import OWN_MODEL
from erdpaper.regimes import plans
from erdpaper.regimes.plans import FASHION, Plan


@dataclass(frozen=True)
class Page:
    """A chapter run with a model.

    live: the plan of what it draws here and now. kept: that of the kept results which it reads:
    the model's own, or those of Fashion-MNIST where it has none, which are not shown then.
    """

    live: Plan
    kept: Plan

    @property
    def own(self) -> bool:
        """Whether the kept results are of the model."""
        return self.kept.model == self.live.model

    def announce(self) -> None:
        """Print whose the results are, if the page is run with another model than fashion."""
        model = self.live.model
        if model == OWN_MODEL:
            return
        if self.own:
            print(f"All that is drawn or measured is of {model}, here and now or by")
            print(f"`{self.kept.command}`; the sentences are on")
            print("Fashion-MNIST, and claims are compared but not judged.")
            return
        print(f"What is drawn or measured here and now is of {model}; kept results are of")
        print("Fashion-MNIST and left out, but for the sentences on them, and no claim is judged.")
        if plans.of_another(model):
            print(f"What is kept in data/results/{model} is of another network or other data.")
        print(f"`erdpaper regimes --model {model}` keeps results of its own.")

    def show(self, of: Plan | None = None) -> None:
        """Show the figures drawn of kept results, of a plan if given; leave out other models'.

        Kept results are of one model, and a page of another must not present them.
        """
        if (of or self.kept).model == self.live.model:
            plt.show()
            return
        plt.close("all")
        model = self.live.model
        print(f"The figure here is of kept results of Fashion-MNIST, and is left out for {model}.")

    def tell(self, text: str) -> None:
        """Print numbers of kept results if they are of the model; `announce` says it once."""
        if self.own:
            print(text)

    def record(
        self, id: str, values: object, spread: object = None
    ) -> claims.Verdict | claims.Unjudged:
        """`claims.record` for values of kept results."""
        return claims.record(id, values, spread, live=self.own)


def open_page(model: str) -> Page:
    """The page of a notebook's parameter `model`."""
    kept = plans.measured(model)
    return Page(kept or plans.unmeasured(model), kept or FASHION)


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
