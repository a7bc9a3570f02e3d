"""The papers that metrics, interventions and claims come from: their short codes, as people cite them, as BibTeX.

In the code a source is written short (`B24, P20`); whatever a person reads says author and year, and a list has the
rest. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Reference:
    """A publication.

    code   as sources are written in this package
    said   author and year, as people cite it
    where  journal, conference or arXiv number
    """

    code: str
    said: str
    authors: str
    title: str
    where: str
    year: int

    @property
    def line(self) -> str:
        """One line of a list of references."""
        return f"{self.authors} ({self.year}). {self.title}{'' if self.title[-1] == '?' else '.'} {self.where}."

    @property
    def key(self) -> str:
        """The BibTeX key: `bonifazi2024`."""
        return re.sub(r"[^a-z]", "", self.authors.split(",")[0].split()[-1].lower()) + str(self.year)

    @property
    def bibtex(self) -> str:
        """The BibTeX entry."""
        arxiv = re.search(r"arXiv (\d{4}\.\d{4,5})", self.where)
        where = "" if self.where.startswith("arXiv") else self.where.partition(", arXiv")[0]
        fields = {
            "title": f"{{{self.title}}}", "author": " and ".join(_names(self.authors)), "year": str(self.year),
            ("journal" if _is_journal(where) else "booktitle"): where,
            "eprint": arxiv[1] if arxiv else "", "archiveprefix": "arXiv" if arxiv else "",
        }  # fmt: skip
        kind = "article" if _is_journal(where) else "inproceedings" if where else "misc"
        lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
        return "\n".join([f"@{kind}{{{self.key},", *lines, "}"])


def _names(authors: str) -> list[str]:
    """`Papyan, V., Han, X.` as names."""
    parts = [part.strip() for part in authors.replace(" and ", ", ").split(",") if part.strip()]
    return [f"{last}, {first}" for last, first in zip(parts[::2], parts[1::2], strict=True)]


def _is_journal(where: str) -> bool:
    return where.startswith(("PNAS", "Nature"))


REFERENCES = {
    one.code: one
    for one in (
        Reference("A20", "Ash & Adams (2020)", "Ash, J. T., Adams, R. P.", "On Warm-Starting Neural Network Training",
                  "NeurIPS 2020, arXiv 1910.08475", 2020),
        Reference("B24", "Bonifazi et al. (2024)", "Bonifazi, G., Chalas, I., Hess, G., Łucki, J.",
                  "Can We Understand Plasticity Through Neural Collapse?", "arXiv 2404.02719", 2024),
        Reference("D24", "Dohare et al. (2024)",
                  "Dohare, S., Hernandez-Garcia, J. F., Lan, Q., Rahman, P., Mahmood, A. R., Sutton, R. S.",
                  "Loss of plasticity in deep continual learning", "Nature 632, 768-774", 2024),
        Reference("G22", "Galanti et al. (2022)", "Galanti, T., György, A., Hutter, M.",
                  "On the Role of Neural Collapse in Transfer Learning", "ICLR 2022, arXiv 2112.15121", 2022),
        Reference("H22", "Hui et al. (2022)", "Hui, L., Belkin, M., Nakkiran, P.",
                  "Limitations of Neural Collapse for Understanding Generalization in Deep Learning",
                  "arXiv 2202.08384", 2022),
        Reference("K23", "Kumar et al. (2023)", "Kumar, S., Marklund, H., Van Roy, B.",
                  "Maintaining Plasticity in Continual Learning via Regenerative Regularization",
                  "arXiv 2308.11958", 2023),
        Reference("L24", "Lyle et al. (2024)",
                  "Lyle, C., Zheng, Z., Khetarpal, K., van Hasselt, H., Pascanu, R., Martens, J., Dabney, W.",
                  "Disentangling the Causes of Plasticity Loss in Neural Networks", "arXiv 2402.18762", 2024),
        Reference("P20", "Papyan et al. (2020)", "Papyan, V., Han, X. Y., Donoho, D. L.",
                  "Prevalence of neural collapse during the terminal phase of deep learning training",
                  "PNAS 117, 24652-24663, arXiv 2008.08186", 2020),
        Reference("S23", "Sokar et al. (2023)", "Sokar, G., Agarwal, R., Castro, P. S., Evci, U.",
                  "The Dormant Neuron Phenomenon in Deep Reinforcement Learning", "ICML 2023, arXiv 2302.12902", 2023),
        Reference("V22", "van de Ven et al. (2022)", "van de Ven, G. M., Tuytelaars, T., Tolias, A. S.",
                  "Three types of incremental learning", "Nature Machine Intelligence 4, 1185-1197", 2022),
        Reference("Y23", "Yang et al. (2023)", "Yang, Y., Steinhardt, J., Hu, W.",
                  "Are Neurons Actually Collapsed? On the Fine-Grained Structure in Neural Representations",
                  "ICML 2023, arXiv 2306.17105", 2023),
        Reference("Z21", "Zhu et al. (2021)",
                  "Zhu, Z., Ding, T., Zhou, J., Li, X., You, C., Sulam, J., Qu, Q.",
                  "A Geometric Analysis of Neural Collapse with Unconstrained Features",
                  "NeurIPS 2021, arXiv 2105.02375", 2021),
        Reference("Xu & Liu 2306.03440", "Xu & Liu (2023)", "Xu, J., Liu, H.",
                  "Quantifying the Variability Collapse of Neural Networks", "ICML 2023, arXiv 2306.03440", 2023),
        Reference("Liu et al. 2023", "Liu et al. (2023)",
                  "Liu, W., Yu, L., Weller, A., Schölkopf, B.",
                  "Generalizing and Decoupling Neural Collapse via Hyperspherical Uniformity Gap",
                  "ICLR 2023, arXiv 2303.06484", 2023),
        Reference("Lewandowski et al. 2024, arXiv 2406.06811", "Lewandowski et al. (2024)",
                  "Lewandowski, A., Bortkiewicz, M., Kumar, S., György, A., Schuurmans, D., Ostaszewski, M., "
                  "Machado, M. C.", "Learning Continually by Spectral Regularization", "arXiv 2406.06811", 2024),
        Reference("Roy 2007", "Roy & Vetterli (2007)", "Roy, O., Vetterli, M.",
                  "The effective rank: A measure of effective dimensionality", "EUSIPCO 2007", 2007),
        Reference("Kumar et al. 2021", "Kumar et al. (2021)", "Kumar, A., Agarwal, R., Ghosh, D., Levine, S.",
                  "Implicit Under-Parameterization Inhibits Data-Efficient Deep Reinforcement Learning",
                  "ICLR 2021, arXiv 2010.14498", 2021),
        Reference("Tang & Berseth 2024", "Tang & Berseth (2024)", "Tang, H., Berseth, G.",
                  "Improving Deep Reinforcement Learning by Reducing the Chain Effect of Value and Policy Churn",
                  "NeurIPS 2024, arXiv 2409.04792", 2024),
    )
}  # fmt: skip
"""By code. What a source says in other words (`common`, `ncpl`) has no reference."""

_CODES = re.compile("|".join(rf"\b{re.escape(code)}\b" for code in sorted(REFERENCES, key=len, reverse=True)))


def said(text: str) -> str:
    """A text with every code as author and year."""
    return _CODES.sub(lambda found: REFERENCES[found[0]].said, text)


def cited(texts: Iterable[str]) -> list[Reference]:
    """The publications that texts name by their codes, or by author and year, in the order of the list."""
    whole = "\n".join(texts)
    codes = set(_CODES.findall(whole))
    return [one for code, one in REFERENCES.items() if code in codes or one.said in whole]


OURS = {"title": "ncpl: neural collapse and plasticity loss, measured together", "year": "2026"}
"""How this program is cited; CITATION.cff says the same."""


def own_bibtex(version: str) -> str:
    """The BibTeX entry of this program."""
    return (
        f"@software{{ncpl,\n  title = {{{{{OURS['title']}}}}},\n  author = {{{{The ncpl authors}}}},\n"
        f"  version = {{{version}}},\n  year = {{{OURS['year']}}},\n}}"
    )
