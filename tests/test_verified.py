"""The note beside a result that somebody has checked it."""

from sae_bench.cli.main import main
from sae_bench.results import store, verified


def test_a_note_counts_until_the_result_or_its_units_change(tmp_path, capsys):
    out = tmp_path / "runs"
    common = ["--sae", "demo/relu", "--quiet"]
    main(["run", *common, "--tasks", "reconstruction", "--limit", "12", "--tier", "smoke", "--out", str(out)])
    file = next(store.find(out))
    assert verified.state_of(file) == ("reported", None)
    assert main(["verify", str(file), *common, "--share", "0.5", "--record", "a reviewer"]) == 0
    assert verified.state_of(file) == ("re-run", None)
    assert list(store.find(out)) == [file]  # the note is no result
    units = file.with_suffix(".units.safetensors")
    units.write_bytes(units.read_bytes() + b"0")
    state, problem = verified.state_of(file)
    assert state == "reported"
    assert "'sha256'" in str(problem)
    capsys.readouterr()


def test_nothing_is_recorded_of_a_result_that_is_wrong(tmp_path, capsys):
    out = tmp_path / "runs"
    run = ["--quiet", "--tasks", "sparsity", "--limit", "12", "--tier", "smoke", "--controls", "none"]
    main(["run", "--sae", "demo/relu", *run, "--out", str(out)])
    file = next(store.find(out))
    assert main(["verify", str(file), "--sae", "demo/gated", "--quiet", "--record", "a reviewer"]) == 1
    assert not verified.path_of(file).exists()
    assert "WRONG: other weights" in capsys.readouterr().out
