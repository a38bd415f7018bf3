"""Training: from rows of a data set to a model that is saved.

- `arguments.py`: settings (`argument_checks.py`: what they mean together; `argument_tables.py`: older names)
- `trainer.py`: the loop; `seq2seq_trainer.py`: the same with texts written in evaluation
- `sampling.py`: which rows make which batch; `batches.py`: rows on their way to the model
- `collators.py`, `masking.py`, `denoising.py`: rows → batch, padded or packed; `draws.py`: their random numbers
- `optimizers.py`, `schedules.py`, `losses.py`: what a step is made of
- `checkpoints.py`: written whole, checked before they are used; `interrupts.py`: ending with one
- `evaluation.py`, `metrics.py`: answers to a data set, and figures of them
- `callbacks.py`, `logs.py`, `state.py`: what happens beside, and where a run stands
"""
