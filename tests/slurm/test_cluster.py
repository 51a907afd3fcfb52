"""A cluster file says what sbatch is asked for, per kind of run; a mistake in it is one line with file and line."""

from pathlib import Path

import configs
import pytest

from bench.core.errors import UserError
from slurm.cluster import FOLDER, Cluster, find_cluster, read_cluster

ALL = "all: {partition: p, time: '01:00:00', memory: 1G, cpus: 1}"


def cluster_of(folder: Path, text: str = "") -> Cluster:
    """The cluster of a file that asks for little, and for what `text` adds."""
    path = folder / "c.yaml"
    path.write_text(f"runs:\n  {ALL}\n  {text}\n")
    return read_cluster(path)


@pytest.mark.parametrize(("text", "words"), [
    ("runs:\n  all:\n    partitoin: x", r"'runs.all.partitoin'; did you mean 'runs.all.partition'\?.*line 3\)"),
    ("runs:\n  all: {partition: p, time: 1:00:00}", r'runs.all.time must be in quotes, e.g. "01:00:00", got 3600 \(.*line 2\)'),
    (f"runs:\n  {ALL}\n  evaluate: {{nodes: 2}}", r"runs.evaluate.nodes must be 1: an evaluation is one process, got 2.*line 3"),
    (f"runs:\n  {ALL}\n  pretrain: {{time: '00:00:59'}}", "time must be a minute or more, got '00:00:59'"),
    (f"runs:\n  {ALL}\n  pretrain: {{time: 12h}}", 'time must be like "12:00:00" or "2-00:00:00", got \'12h\''),
])
def test_a_mistake_in_a_cluster_file_is_one_line_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        read_cluster(tmp_path / "c.yaml")
    assert "\n" not in str(caught.value)


def test_the_clusters_that_come_with_the_suite_and_no_others_are_known() -> None:
    for path in FOLDER.glob("*.yaml"):
        assert {"pretrain", "evaluate"} <= read_cluster(find_cluster(path.stem)).requests.keys()
    with pytest.raises(UserError, match="unknown cluster 'tets'; did you mean 'test'"):
        find_cluster("tets")


def test_sbatch_is_asked_for_what_the_file_says_and_the_closest_section_wins(tmp_path: Path) -> None:
    cluster = cluster_of(tmp_path, "pretrain: {nodes: 2, gpus: 3, qos: r}\n"
                                   "  pretrain-b: {gpus: 4, account: a, qos: q, constraint: c}\nwork: w")
    assert cluster.requests["pretrain-b"].options() == [
        "--partition=p", "--time=01:00:00", "--mem=1G", "--nodes=2", "--ntasks-per-node=4", "--cpus-per-task=1",
        "--signal=B:USR2@120", "--gpus-per-node=4", "--account=a", "--qos=q", "--constraint=c"]
    assert [cluster.kind_of(configs.load("jepa", [f"encoder.size={size}"])) for size in "bs"] == ["pretrain-b", "pretrain"]
    assert cluster.requests["evaluate"].options()[3:5] == ["--nodes=1", "--ntasks-per-node=1"]
    assert cluster.work == tmp_path / "w"
