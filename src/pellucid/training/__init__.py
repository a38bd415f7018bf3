"""Training: from rows of a data set to a model that is saved.

- `arguments.py`: settings (`argument_checks.py`: what they mean together; `argument_tables.py`: older names)
- `trainer.py`: the loop; `seq2seq_trainer.py`: the same with texts written in evaluation; `reports.py`: what it tells
- `feed.py`: the batches of each step; `sampling.py`: which rows make which; `batches.py`: on their way to the model
- `streams.py`, `stream_….py`: rows of files and streams, read as they are needed
- `processes.py`, `sharing.py`: several processes, and one model in all of them
- `collators.py`, `masking.py`, `denoising.py`: rows → batch, padded or packed; `draws.py`: their random numbers
- `optimizers.py`, `schedules.py`, `losses.py`: what a step is made of
- `checkpoints.py`: written whole, checked before they are used; `interrupts.py`: ending with one
- `evaluation.py`, `metrics.py`: answers to a data set, and figures of them
- `recipes.py`, `recipes_….py`: tasks, from data files to figures; `pretraining.py`, `pretraining_….py`: from texts
- `embedding_….py`: vectors of texts; `distillation.py`, `pruning.py`: smaller models
- `model_card.py`, `curves_page.py`, `curves.py`: what is written about a run
- `callbacks.py`, `logs.py`, `state.py`: what happens beside, and where a run stands
"""
