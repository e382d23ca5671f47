"""What a benchmark says of a bar: one line, the same in all of them."""


def verdict(what: str, figure: float, bar: float, *, at_most: bool = False) -> str:
    """Return what was measured, what was asked for, and whether it is met."""
    met = figure <= bar if at_most else figure >= bar
    asked = f"at {'most' if at_most else 'least'} {bar:g}"
    return f"{what}: {figure:.4g}, {asked} asked for: {'met' if met else 'NOT MET'}"
