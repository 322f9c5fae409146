"""Expressions that more than one dashboard asks for."""

RATE = "$__rate_interval"
HERE = 'instance=~"$instance"'


def quantile(share: float, name: str, labels: str, by: str = "") -> str:
    """A quantile of a histogram, over instances. by: labels that are kept, with a comma behind"""
    return f"histogram_quantile({share}, sum by ({by}le) (rate({name}_bucket{{{labels}}}[{RATE}])))"


def per_second(name: str, labels: str = HERE, by: str = "") -> str:
    """The rate of a counter, over instances."""
    return f"sum {f'by ({by}) ' if by else ''}(rate({name}{{{labels}}}[{RATE}]))"
