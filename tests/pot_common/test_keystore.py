import json
import sys

import pytest

from chain.crypto import get_address
from chain.primitives import PrivateKey
from pot_common import keystore
from pot_common.errors import OperatorError
from pot_common.keystore import (
    create_private_key,
    get_password,
    list_keys,
    load_key,
    read_address,
    save_key,
)

KEY = PrivateKey(bytes.fromhex("7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d"))

SPECIFICATION_VECTOR = {
    # The Web3 Secret Storage Definition's own PBKDF2 example; password "testpassword".
    "address": "008aeeda4d805471df9b2a5b0f38a0c3bcba786b",
    "crypto": {
        "cipher": "aes-128-ctr",
        "cipherparams": {"iv": "6087dab2f9fdbbfaddc31a909735c1e6"},
        "ciphertext": "5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
        "kdf": "pbkdf2",
        "kdfparams": {
            "c": 262144,
            "dklen": 32,
            "prf": "hmac-sha256",
            "salt": "ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd",
        },
        "mac": "517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2",
    },
    "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6",
    "version": 3,
}


def test_saved_key_is_loaded_with_its_password_only(tmp_path):
    path = tmp_path / "keys" / "validator.json"
    address = save_key(path, KEY, "secret", light=True)
    assert address == get_address(KEY) == read_address(path)
    assert load_key(path, "secret") == KEY
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(OperatorError, match=r"wrong password for .*check the password file"):
        load_key(path, "Secret")
    assert KEY.hex() not in path.read_text()


def test_keystores_have_the_costs_of_geth(tmp_path):
    costs = []
    for name, light in (("standard", False), ("light", True)):
        save_key(tmp_path / name, KEY, "secret", light=light)
        costs.append(json.loads((tmp_path / name).read_text())["crypto"]["kdfparams"]["n"])
    assert costs == [262_144, 4_096]


def test_example_of_the_keystore_specification_opens(tmp_path):
    path = tmp_path / "UTC--specification"
    path.write_text(json.dumps(SPECIFICATION_VECTOR))
    assert load_key(path, "testpassword") == KEY
    assert list_keys(tmp_path) == ((get_address(KEY), path),)


def test_key_file_is_never_overwritten(tmp_path):
    path = tmp_path / "key.json"
    save_key(path, KEY, "secret", light=True)
    before = path.read_bytes()
    with pytest.raises(OperatorError, match="not overwritten"):
        save_key(path, create_private_key(), "secret", light=True)
    assert path.read_bytes() == before


def test_empty_password_is_refused(tmp_path):
    with pytest.raises(OperatorError, match=r"password .* is empty"):
        save_key(tmp_path / "key.json", KEY, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"not json",
        b"\xff\xff",
        json.dumps(SPECIFICATION_VECTOR | {"version": 4}).encode(),
        json.dumps(SPECIFICATION_VECTOR | {"address": "zz"}).encode(),
        json.dumps(SPECIFICATION_VECTOR | {"crypto": {}}).encode(),
        json.dumps(SPECIFICATION_VECTOR | {"crypto": []}).encode(),
    ],
)
def test_file_that_is_not_a_keystore_is_named(tmp_path, content):
    path = tmp_path / "key.json"
    path.write_bytes(content)
    with pytest.raises(OperatorError, match=r"key\.json is no Web3 keystore"):
        load_key(path, "testpassword")


def test_keystore_that_names_another_account_is_refused(tmp_path):
    path = tmp_path / "key.json"
    path.write_text(json.dumps(SPECIFICATION_VECTOR | {"address": "11" * 20}))
    with pytest.raises(OperatorError, match="another account"):
        load_key(path, "testpassword")


def test_absent_key_file_is_named(tmp_path):
    with pytest.raises(OperatorError, match=r"cannot read the key file .*No such file"):
        load_key(tmp_path / "absent.json", "x")


def test_listing_leaves_out_other_files(tmp_path):
    second = save_key(tmp_path / "b.json", create_private_key(), "x", light=True)
    first = save_key(tmp_path / "a.json", KEY, "x", light=True)
    (tmp_path / "notes.txt").write_text("remember the milk")
    (tmp_path / "folder").mkdir()
    assert list_keys(tmp_path) == (
        (first, tmp_path / "a.json"),
        (second, tmp_path / "b.json"),
    )
    assert list_keys(tmp_path / "absent") == ()


def test_password_is_the_first_line_of_its_file(tmp_path):
    path = tmp_path / "password"
    path.write_text("pass word \nsecond line\n")
    given = get_password(path, setting="consensus.password_file", prompt="")
    assert given == "pass word "


def test_password_problems_name_the_setting(tmp_path, monkeypatch):
    (tmp_path / "empty").write_text("\n")
    for path in (tmp_path / "absent", tmp_path / "empty"):
        with pytest.raises(OperatorError, match=r"consensus\.password_file .*(absent|empty)"):
            get_password(path, setting="consensus.password_file", prompt="")
    monkeypatch.setattr(sys, "stdin", (tmp_path / "empty").open())
    with sys.stdin, pytest.raises(OperatorError, match=r"set consensus\.password_file"):
        get_password(None, setting="consensus.password_file", prompt="")


def test_new_password_is_typed_twice(monkeypatch):
    typed = iter(["one", "two", "same", "same"])
    monkeypatch.setattr(keystore, "get_password", lambda *_, **__: next(typed))
    with pytest.raises(OperatorError, match="differ"):
        keystore.ask_new_password(setting="x")
    assert keystore.ask_new_password(setting="x") == "same"


def test_created_keys_differ():
    assert create_private_key() != create_private_key()
