"""A picture of a study."""


def plot_report(report: dict):
    """Draws the AP of every row: mean and 95 % interval, each seed as a dot.

    Args:
        report: From `make_report`. Rows without a finished training stay empty.

    Returns:
        A matplotlib figure of its own, outside pyplot.

    Example:

    >>> report = make_report(plan_tables(), 3, folder)  # doctest: +SKIP (needs a study)
    >>> plot_report(report).savefig("study.png")  # doctest: +SKIP (needs a study)
    """
    from matplotlib.figure import Figure

    tables = report["tables"]
    counts = [len(table["rows"]) for table in tables]
    figure = Figure(figsize=(8, 1.2 + 0.3 * sum(counts) + 0.4 * len(tables)), layout="constrained")
    panels = figure.subplots(
        len(tables), sharex=True, squeeze=False, gridspec_kw={"height_ratios": counts}
    )[:, 0]
    for axes, table in zip(panels, tables, strict=True):
        rows = table["rows"]
        for place, row in enumerate(rows):
            if not row["seeds"]:
                continue
            estimate = row["figures"]["AP"]
            colour = "tab:gray" if row["baseline"] is None else "tab:blue"
            axes.errorbar(
                estimate["mean"],
                place,
                xerr=estimate["half_width"],
                fmt="o",
                color=colour,
                capsize=3,
            )
            values = estimate["values"]
            axes.plot(values, [place] * len(values), "|", color=colour, alpha=0.6, markersize=10)
        axes.set_yticks(range(len(rows)), [row["label"] for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_title(table["title"], loc="left", fontsize="medium")
        axes.grid(axis="x", alpha=0.3)
    panels[-1].set_xlabel("AP, percent: mean and 95 % interval; strokes are seeds; gray: baseline")
    return figure
