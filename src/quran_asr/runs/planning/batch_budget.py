"""Which batches a process can take at a time so that the clips behind an optimizer step stay the same."""

from __future__ import annotations

from dataclasses import replace

from quran_asr.runs.schema import Recipe


def budgets(recipe: Recipe) -> list[Recipe]:
    """The recipe with every batch that divides its effective batch without rest, the largest first.

    Clips a batch times accumulation is the same in all of them. Where batches are filled by seconds, so is
    seconds a batch times accumulation. An interval of validation that counts batches is stretched along.
    """
    data, trainer = recipe.model.train_ds, recipe.trainer
    behind_a_step = data.batch_size * trainer.accumulate_grad_batches
    return [
        _with_accumulation(recipe, behind_a_step // clips, clips)
        for clips in range(behind_a_step, 0, -1)
        if behind_a_step % clips == 0
    ]


def halved(recipe: Recipe) -> Recipe | None:
    """The recipe with the largest batch of at most half the clips; None where a batch is one clip already."""
    most = recipe.model.train_ds.batch_size // 2
    return next((one for one in budgets(recipe) if one.model.train_ds.batch_size <= most), None)


def words(recipe: Recipe) -> str:
    """The batch of a recipe as overrides."""
    data = recipe.model.train_ds
    seconds = "" if data.batch_duration is None else f" model.train_ds.batch_duration={data.batch_duration:g}"
    return (
        f"model.train_ds.batch_size={data.batch_size}{seconds} "
        f"trainer.accumulate_grad_batches={recipe.trainer.accumulate_grad_batches}"
    )


def _with_accumulation(recipe: Recipe, accumulation: int, clips: int) -> Recipe:
    data, trainer = recipe.model.train_ds, recipe.trainer
    times = accumulation / trainer.accumulate_grad_batches
    seconds = None if data.batch_duration is None else data.batch_duration / times
    interval = trainer.val_check_interval
    if isinstance(interval, int):
        interval = max(1, round(interval * times))
    return replace(
        recipe,
        model=replace(recipe.model, train_ds=replace(data, batch_size=clips, batch_duration=seconds)),
        trainer=replace(trainer, accumulate_grad_batches=accumulation, val_check_interval=interval),
    )
