"""Results made by hand, and changed copies of them."""

import json

from sae_bench import registry
from sae_bench.results import store
from sae_bench.schema import CoderRecord, MetricValue, Protocol, Provenance, Result


def defined(task, parameters=None):
    """The digest of a task that ships, with these parameters; of others one that nothing has."""
    known = registry.tasks().get(task)
    if known is None:
        return "1" * 64
    own = {name: value for name, value in (parameters or {}).items() if name in known.parameters}
    return registry.definition_sha256(registry.with_parameters(known, own))


def protocol(**changes):
    fields = {
        "task": "sparsity",
        "version": 1,
        "task_sha256": defined(changes.get("task", "sparsity"), changes.get("parameters", {})),
        "parameters": {},
        "model": "gpt2",
        "model_sha256": "2" * 64,
        "dtype": "float32",
        "hooks_in": ("blocks.0.hook_resid_post",),
        "hooks_out": ("blocks.0.hook_resid_post",),
        "data": "texts.jsonl",
        "data_sha256": "3" * 64,
        "calibration_sha256": "4" * 64,
        "n_documents": 2,
        "mask": "special",
        "special_ids": (0,),
        "mean_from": "calibration",
        "seed": 0,
    }
    return Protocol(**(fields | changes))


def result(name="my sae", sha="ab" * 32, metrics=None, details=None, status="ok", reason=None, **changes):
    p = protocol(**changes)
    hooks = {"hooks_in": p.hooks_in, "hooks_out": p.hooks_out}
    sae = CoderRecord(name=name, source="x", format="native", architecture="topk", weights_sha256=sha, n_latents=8,
                      d_in=4, d_out=4, **hooks)  # fmt: skip
    value = MetricValue(value=1.5, low=1.25, high=2.0, unit="latents", better="none", n_units=2)
    provenance = Provenance(protocol=p, versions={"torch": "2"}, platform="Linux", device="cpu", backend="hf",
                            resamples=2000, confidence=0.95, batch_tokens=512, n_tokens=99, n_calibration_documents=2,
                            n_calibration_tokens=50, data={"how": "lines"}, counters={"prefix": 2})  # fmt: skip
    return Result(sae=sae, task=p.task, version=p.version, status=status, reason=reason,
                  protocol=store.protocol_hash(p), metrics={"l0": value} if metrics is None else metrics,
                  controls={"mean": {"l0": value}}, details=details or {}, provenance=provenance)  # fmt: skip


def changed(file, *path, value):
    """The field at `path` of a result file, changed by hand."""
    content = json.loads(file.read_text())
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file.write_text(json.dumps(content))
