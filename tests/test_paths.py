"""uda_jax.paths: which paths are taken, and which encodings of a text file."""

import os

import pytest

from uda_jax.errors import UserError
from uda_jax.paths import answering, is_remote, local, read_text, records_dir, to_path, user_path


@pytest.mark.parametrize("text", ["gs://bucket/data", "s3://b", "gs:/bucket/data", "gs:bucket", "HDFS://host/x"])
def test_addresses_are_refused_where_only_disks_will_do(text):
    with pytest.raises(UserError, match=r"--out=.*only local paths.*gcloud storage cp -r.*\./"):
        local(text, "--out")


@pytest.mark.parametrize("text", ["s3://b/x", "hdfs://host/x", "FILE:///tmp/x", "s3:b", "https://storage/x"])
def test_other_stores_are_refused_and_the_way_out_named(text):
    with pytest.raises(UserError, match=rf"--workdir={text}: .*{text.split(':')[0].lower()}:// is not.*Mount.*\./"):
        user_path(text, "--workdir")


@pytest.mark.parametrize("text", ["gs:/bucket/x", "gs:bucket/x", "GS://bucket/x", " gs://bucket/x", "gs:///bucket/x"])
def test_mistyped_addresses_are_told(text):
    with pytest.raises(UserError, match=rf"--workdir={text}: did you mean gs://bucket/x\?"):
        user_path(text, "--workdir")
    with pytest.raises(UserError, match=r"did you mean gs://BUCKET/...\?"):
        user_path("gs://", "--workdir")


@pytest.mark.parametrize("text", ["data", "./gs:/bucket", "/tmp/a:b/c", "a b", "C:/data", "keras:ResNet50", "x/gs:/y"])
def test_local_paths_are_taken_as_they_are(text):
    for path in (local(text, "--out"), user_path(text, "--out")):
        assert str(path) == text.removeprefix("./")
        assert not is_remote(path)


@pytest.mark.parametrize("text", ["/gs/bucket/x", "/s3/bucket/x"])
def test_where_buckets_are_mounted_is_a_disk(text):
    """To epath /gs/bucket is gs://bucket."""
    for path in (user_path(text, "--workdir"), to_path(to_path(text)) / "y", to_path(os.path.abspath(to_path(text)))):
        assert not is_remote(path)
        assert os.path.samefile("/", path.parts[0]) and path.parts[1:3] == tuple(text.split("/")[1:3])


def test_a_tilde_is_the_home_directory_and_one_in_the_way_a_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert local("~/data", "--out") == tmp_path / "home" / "data"
    assert local("~", "--out") == tmp_path / "home"
    assert local("./~/data", "--out") == tmp_path / "~" / "data"  # others would expand it again
    assert local("~nobody-here/data", "--out") == tmp_path / "~nobody-here" / "data"


@pytest.mark.parametrize(("text", "message"), [("", "found nothing"), (" ", "found nothing"), ("a\0b", "NUL")])
def test_what_is_no_path_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        local(text, "--json")


def test_a_data_directory_has_a_name_in_utf8(tmp_path):
    assert records_dir(tmp_path / "é", "--out") == tmp_path / "é"
    with pytest.raises(UserError, match=r"--out=caf\\udce9: TensorFlow needs names in UTF-8"):
        records_dir("caf\udce9", "--out")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_text_in_any_unicode_form_is_read(tmp_path, encoding, end):
    path = tmp_path / "list.txt"
    path.write_bytes(f"straße{end}été{end}".encode(encoding))
    assert read_text(path) == "straße\nété\n"


def test_text_of_big_endian_machines_is_read(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes("\ufeffété".encode("utf-16-be"))
    assert read_text(path) == "été"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\nété".encode("latin-1"), r"list.txt is not in UTF-8: .* in line 2 .*Save it as UTF-8"),
        ("\ufeffab".encode("utf-16-le")[:-1], r"list.txt is not in UTF-16"),
        ("ab".encode("utf-16-le"), r"list.txt is no text, or in UTF-16 without a byte order mark"),
        ("straße".encode("utf-16-le"), r"list.txt is no text, or in UTF-16 without a byte order mark"),
        ("straße".encode("utf-16-be"), r"list.txt is no text, or in UTF-16 without a byte order mark"),
        (bytes(range(256)), r"list.txt is no text, or in UTF-16 without a byte order mark"),
    ],
)
def test_other_encodings_are_named_with_the_way_out(tmp_path, content, message):
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_text(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_text(tmp_path)


def test_what_a_disk_refuses_becomes_a_message(tmp_path):
    with pytest.raises(UserError, match=r"x: No such file or directory"), answering():
        (tmp_path / "x").read_bytes()
