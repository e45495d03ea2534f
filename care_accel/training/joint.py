"""The paper's Stage II: both encoders trained together by InfoNCE, on sentence-transformers' trainer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from sentence_transformers.base.modules import Module

from care_accel.encoding import ROLES, DualEncoder, Role
from care_accel.encoding.checkpoint import Checkpoint
from care_accel.encoding.sources import Source, Sources
from care_accel.training.data import load_table
from care_accel.training.recipe import Stage

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

_LIBRARY_POOLINGS = {"first": "cls", "last": "lasttoken", "mean": "mean"}


class Slice(Module):
    """Keeps the leading values of a vector, in training as in inference.

    The library's ``truncate_dim`` is not applied while training.

    Parameters
    ----------
    width : int
    """

    config_keys: ClassVar[list[str]] = ["width"]

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, features: dict[str, torch.Tensor], **_: Any) -> dict[str, torch.Tensor]:
        """Slice ``sentence_embedding``, ``[batch, hidden]`` to ``[batch, width]``."""
        features["sentence_embedding"] = features["sentence_embedding"][:, : self.width]
        return features

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Write the width: a checkpoint that resumes a run is a whole sentence-transformers model."""
        self.save_config(output_path)


def inner_products(queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    """Score every query against every document, ``[n, width]`` and ``[m, width]`` to ``[n, m]``."""
    return queries @ documents.T


def info_nce(model: SentenceTransformer, temperature: float) -> MultipleNegativesRankingLoss:
    """Return InfoNCE in one direction, queries to all documents of the batch.

    For query i: -log( exp(q_i.d_i / t) / sum_j exp(q_i.d_j / t) ), j over all positives and negatives
    of the batch (paper, section on training). Vectors come as the model makes them: no cosine.
    """
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    return MultipleNegativesRankingLoss(model, scale=1.0 / temperature, similarity_fct=inner_products)


def trainable(model: DualEncoder, limits: dict[Role, int]) -> SentenceTransformer:
    """Build a sentence-transformers Router with the steps of both specs, ready to train.

    Parameters
    ----------
    model : DualEncoder
    limits : dict
        Tokens at most, a role.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Router, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    # On a CPU in bfloat16 the plain attention trains faster than the fused one (0.9 against 1.2 s a step).
    network_options = {} if torch.cuda.is_available() else {"attn_implementation": "eager"}
    routes = {}
    for role in ROLES:
        spec, checkpoint = model.spec(role), model.source(role).checkpoint
        transformer = Transformer(
            str(checkpoint.folder),
            max_seq_length=min(spec.max_tokens, limits[role]),
            model_kwargs=network_options,
        )
        transformer.tokenizer.padding_side = spec.padding_side
        pooling = Pooling(checkpoint.hidden_size, pooling_mode=_LIBRARY_POOLINGS[spec.pooling])
        cut: list[Any] = [Normalize(), Slice(spec.width)]
        routes[role] = [
            transformer,
            pooling,
            *(cut if spec.order == "normalize-then-slice" else reversed(cut)),
        ]
    router = Router.for_query_document(routes["query"], routes["document"])
    return SentenceTransformer(modules=[router], similarity_fn_name="dot")


def train_joint(model: DualEncoder, stage: Stage, data_dir: Path, work: Path, seed: int) -> DualEncoder:
    """Train both encoders of a model and return the result, whose files lie below ``work``.

    A run that was stopped goes on at its last checkpoint in ``work``.

    Parameters
    ----------
    model : DualEncoder
        Where to start; it is not changed.
    stage : Stage
    data_dir : Path
    work : Path
        Checkpoints and networks of this stage.
    seed : int

    Returns
    -------
    DualEncoder
    """
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.base.sampler import BatchSamplers, MultiDatasetBatchSamplers

    tables = {
        f"{position} {source.file}": load_table(
            source, data_dir, model.spec("query"), model.spec("document"), stage.negatives, seed
        )
        for position, source in enumerate(stage.data)
    }
    columns = {name for table in tables.values() for name in table.column_names}
    library_model = trainable(model, {"query": stage.max_query_tokens, "document": stage.max_document_tokens})
    gpu = torch.cuda.is_available()
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(work / "checkpoints"),
        num_train_epochs=stage.epochs,
        per_device_train_batch_size=stage.batch_size,
        learning_rate=stage.learning_rate,
        warmup_steps=stage.warmup_ratio,
        weight_decay=stage.weight_decay,
        bf16=stage.bf16,
        use_cpu=not gpu,
        seed=seed,
        data_seed=seed,
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        # Every batch comes from one file, and a file is met as often as it is long.
        multi_dataset_batch_sampler=MultiDatasetBatchSamplers.PROPORTIONAL,
        router_mapping={name: "query" if name == "query" else "document" for name in columns},
        save_steps=stage.save_steps,
        save_total_limit=1,
        logging_steps=20,
        report_to="none",
        dataloader_pin_memory=gpu,
    )
    trainer = SentenceTransformerTrainer(
        model=library_model,
        args=arguments,
        train_dataset=tables,
        loss=info_nce(library_model, stage.temperature),
    )
    trainer.train(resume_from_checkpoint=_last_whole_checkpoint(work / "checkpoints"))
    trainer.state.save_to_json(str(work / "trainer_state.json"))
    return _collect(library_model, model, work)


def _last_whole_checkpoint(folder: Path) -> str | None:
    """Return the newest checkpoint, and remove those that were being written when a run was stopped."""
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=lambda c: -int(c.name.rpartition("-")[2])):
        if (checkpoint / "trainer_state.json").is_file():  # written last
            return str(checkpoint)
        shutil.rmtree(checkpoint)
    return None


def _collect(library_model: SentenceTransformer, model: DualEncoder, work: Path) -> DualEncoder:
    """Write the trained networks and return the dual encoder that they make."""
    found = {}
    for role in ROLES:
        transformer = library_model[0].sub_modules[role][0]
        transformer.model.save_pretrained(work / role)
        # The tokenizer as it was: training must not carry its shorter limit into the model.
        model.source(role).checkpoint.load_tokenizer().save_pretrained(work / role)
        found[role] = Source(Checkpoint(work / role), model.spec(role))
    return DualEncoder(Sources(model.name, found["query"], found["document"]))
