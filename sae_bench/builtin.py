"""What ships: SAE formats, controls, kinds of units, streams and back ends, each a name and where its code is.

Nothing is imported here. :mod:`sae_bench.registry` adds what other packages register.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Entry:
    """A registered thing: a sentence about it and where its code is (``module`` or ``module:attribute``).

    ``origin`` says which entry point of which package registers it; it is empty for what ships. ``codes_of``: a control
    differs in its decoder alone from what it names, and is nothing new to a task that looks at codes. ``bound``: it is
    what an SAE could reach, and none that it has to beat, so that it never needs more documents than the sample.
    """

    name: str
    code: str
    description: str
    origin: str = field(default="", compare=False, kw_only=True)
    codes_of: str = field(default="", compare=False, kw_only=True)
    bound: bool = field(default=False, compare=False, kw_only=True)


@dataclass(frozen=True)
class Format(Entry):
    """A layout on disk: by which files it is recognised, and what they do not say and the user is asked for.

    ``weights``: a folder of a repository that has such a file holds one SAE, whatever else lies beside it.
    """

    files: str = ""
    asks: str = ""
    weights: tuple[str, ...] = ()


def _format(name: str, description: str, files: str, asks: str = "", weights: tuple[str, ...] = ()) -> Format:
    return Format(name, f"sae_bench.saes.formats.{name}", description, files, asks, weights)


# CPU time of a run of one task alone, that of reconstruction being 1: python benchmarks/tasks.py (docs/suites.md)
RELATIVE_COST = {
    "reconstruction": 1.0,
    "sparsity": 0.8,
    "loss_recovered": 1.8,
    "downstream_sparsity": 2.0,
    "token_rules": 2.9,
    "probe_recovery": 16.0,
    "sparse_probing": 16.0,
    "token_labels": 3.6,
}


def cost(task: str, *, judged: bool = False) -> str:
    """What a task costs in CPU time, as measured once: in times of ``reconstruction``, each alone."""
    if judged:
        return "a judge's requests (run --dry-run counts them)"
    return f"{RELATIVE_COST[task]:g}" if task in RELATIVE_COST else "not measured"


# in the order in which they are tried: what is refused comes first, since crosscoders have the names of other layouts
FORMATS = (
    _format(
        "native",
        "sae-bench's own",
        "`sae_bench.json` + `weights.safetensors`",
        weights=("weights.safetensors",),
    ),
    _format(
        "refused",
        "recognised and refused, with the reason: temporal, cross-layer, crosscoders",
        "`conf.yaml` + `latest_ckpt.safetensors`, `W_enc_*.safetensors`, encoders of three axes",
    ),
    _format(
        "saelens",
        "SAELens v3 to v6 and its checkpoints of training: standard, topk, abstopk, jumprelu, gated, BatchTopK, "
        "Matryoshka, matching pursuit, transcoders with and without skip",
        "`cfg.json` + `sae_weights.safetensors`",
        "the factor of `expected_average_only_in` (`--norm-factor`)",
        weights=("sae_weights.safetensors",),
    ),
    _format(
        "sparsify",
        "EleutherAI sparsify: topk, groupmax, transcoders",
        "`cfg.json` + `sae.safetensors`",
        weights=("sae.safetensors",),
    ),
    _format(
        "lm_saes",
        "Language-Model-SAEs (OpenMOSS) of 2025: SAEs and transcoders",
        "`config.json` with `sae_type` + `sae_weights.safetensors`",
        "norms that are not stored (`--norm-factor`); the threshold of BatchTopK (`--threshold`)",
        weights=("sae_weights.safetensors", "sae_weights.pt"),
    ),
    _format(
        "llama_scope",
        "Llama Scope (2024)",
        "`hyperparams.json` + `checkpoints/final.safetensors`",
        "TopK or threshold where both are stored (`--format llama_scope:topk` or `:jumprelu`)",
        weights=("checkpoints/final.safetensors",),
    ),
    _format(
        "batchtopk",
        "BatchTopK repository (Bussmann)",
        "`config.json` + `sae.pt`",
        "the threshold (`--threshold`)",
        weights=("sae.pt",),
    ),
    _format(
        "dictionary_learning",
        "dictionary_learning: standard, new, gated, jumprelu, topk, BatchTopK, Matryoshka, and backups",
        "`config.json` + `ae.pt`, or `checkpoints/ae_*.pt`, or a bare `.pt` with its keys",
        "of a bare file: the hook point, and `--k` or `--threshold` of TopK and BatchTopK, which look alike",
        weights=("ae.pt",),
    ),
    _format(
        "gemma_scope",
        "Gemma Scope: residual stream, MLP, attention, embedding, transcoders",
        "`params.npz`",
        "site and layer, unless the path has the names of the release",
        weights=("params.npz",),
    ),
    _format(
        "gemma_scope_2",
        "Gemma Scope 2: SAEs and transcoders",
        "`config.json` + `params.safetensors`",
        weights=("params.safetensors",),
    ),
    _format(
        "circuit_tracer",
        "transcoders of circuit-tracer",
        "`layer_N.safetensors` (+ `config.yaml`)",
        "the layer (`--layer`) if there are several; how a square decoder lies (`--format circuit_tracer:rows` or "
        "`:columns`)",
    ),
    _format("openai", "OpenAI sparse_autoencoder on GPT-2", "one `.pt`", "the hook point, unless the path has it"),
    _format("goodfire", "Goodfire", "one `.pth`", "model and layer, unless the file name has them"),
    _format("connor_rob", "attention SAEs of Kissane et al.", "`NAME.pt` + `NAME_cfg.json`"),
    _format("qwen_scope", "Qwen Scope", "`layerN.sae.pt`", "k (`--k`), which only the name of the repository has"),
    _format(
        "deepseek",
        "qresearch on DeepSeek-R1: plain ReLU",
        "one `.pt` with `encoder.*`, `decoder.*`",
        "the layer, unless the file name has it",
    ),
)

CONTROLS = (
    Entry("mean", "sae_bench.saes.controls:mean_only", "always the mean activation: what explaining nothing scores"),
    Entry("identity", "sae_bench.saes.controls:identity", "the activation itself: what a perfect copy scores"),
    Entry("pca", "sae_bench.saes.controls:pca", "as many principal components as the SAE has active latents"),
    Entry(
        "random", "sae_bench.saes.controls:random_init", "random dictionary, untrained encoder, TopK at the SAE's L0"
    ),
    Entry(
        "random_l0",
        "sae_bench.saes.controls:random_l0",
        "the codes of random with an unrelated random decoder: what an L0 alone scores",
        codes_of="random",
    ),
    Entry(
        "permuted",
        "sae_bench.saes.controls:permuted",
        "the SAE itself with its decoder rows in another order",
        codes_of="the SAE",
    ),
    Entry(
        "random_fit",
        "sae_bench.saes.fitted:random_fit",
        "the codes of random, of at most 16,384 latents, with a decoder fitted by ridge",
        codes_of="random",
    ),
    Entry(
        "permuted_fit",
        "sae_bench.saes.fitted:permuted_fit",
        "the SAE's own codes with a decoder fitted by ridge to calibration text",
        codes_of="the SAE",
        bound=True,
    ),
    Entry(
        "pursuit",
        "sae_bench.saes.pursued:pursuit",
        "the SAE's decoder with codes by gradient pursuit at its L0: what its decoder allows",
        bound=True,
    ),
    Entry("pca_topk", "sae_bench.saes.controls:pca_topk", "per token the largest PCA coordinates, at the SAE's L0"),
    Entry("channels", "sae_bench.saes.controls:channels", "per token the largest raw channels, at the SAE's L0"),
)
TASKS = (  # by name, in the order in which they stand everywhere; their definitions are files
    *("reconstruction", "sparsity", "loss_recovered", "probe_recovery", "sparse_probing"),
    *("token_labels", "downstream_sparsity", "token_rules", "autointerp"),
)
UNITS = (
    Entry("document", "sae_bench.units.kinds:DOCUMENT", "a text: its sums over tokens"),
    Entry("latent", "sae_bench.units.kinds:LATENT", "a latent of one SAE: its sums over the text"),
    Entry("fold", "sae_bench.units.kinds:FOLD", "some of the documents, by a hash: what each latent does there"),
    Entry("example", "sae_bench.units.kinds:EXAMPLE", "a test example of a labelled set; a figure is a mean over sets"),
    Entry("ablation", "sae_bench.units.kinds:ABLATION", "an ablation of a latent; documents are resampled"),
)
STREAMS = (  # in the order in which they run
    Entry("documents", "sae_bench.streams.documents:Documents", "every document of the text"),
    Entry("tracked", "sae_bench.streams.tracked:TrackedStream", "where some latents fire, on some documents"),
    Entry("labelled", "sae_bench.streams.labelled:LabelledStream", "labelled sets of texts"),
    Entry("token_labels", "sae_bench.streams.token_labels:TokenLabelStream", "labelled sets of texts, token by token"),
    Entry("ablations", "sae_bench.streams.ablations:AblationStream", "latents taken away one by one"),
)
DEFAULT_CONTROLS = ("mean", "identity", "pca", "random", "random_fit", "random_l0", "permuted")

# what runs the language model; sae_bench.models.subject says what the code must be
BACKENDS = (
    Entry("hf", "sae_bench.models.huggingface:HuggingFaceSubject", "transformers"),
    Entry("tl", "sae_bench.models.transformer_lens:TransformerLensSubject", "TransformerLens"),
)
