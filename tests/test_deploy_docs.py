"""The commands of docs/aws.md, run one after the other against moto, print what the page says they do."""

import re
import shlex
from doctest import ELLIPSIS, OutputChecker
from pathlib import Path

import pytest
from deploy_account import ID, REGION, opened
from deploy_account_fargate import new_network
from test_deploy_checks import push

from wukong import cli
from wukong.deploy.iam_policy import policy

pytestmark = pytest.mark.xdist_group("moto")

PAGE = Path(__file__).parent.parent / "docs" / "aws.md"
_BLOCK = re.compile(r"^<!-- against moto -->\n```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r"^\$ (.*)\n", re.MULTILINE)
SUBNETS = ("subnet-0a11", "subnet-0b22")
_VARYING = (
    (r"\d+\.\d MB", "N MB"),
    (r"^packing.*", "packing"),
    (r"sha256 [0-9a-f]{12}", "sha256 DIGEST"),
    (r"[Pp]ython ?3\.\d+", "python"),
    (r"costs \$0\.(\d)\d\d\d", r"costs $0.\1"),
    (r"in S3: \$0\.0\d\d\d", "in S3: $USD"),
)
"""What depends on the environment that deploys."""


def settled(text):
    for pattern, word in _VARYING:
        text = re.sub(pattern, word, text, flags=re.MULTILINE)
    return text.strip() + "\n"


def test_what_the_page_shows_is_what_the_commands_print(monkeypatch, tmp_path, capsys):
    allowed = [each for fargate in (False, True) for each in policy("wukong", REGION, ID, fargate=fargate)["Statement"]]
    aws = opened(monkeypatch, tmp_path, {"Version": "2012-10-17", "Statement": allowed})
    push(aws)
    subnets = dict(zip(SUBNETS, sorted(new_network(aws)[1]), strict=True))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "requirements.txt").write_text("numpy\n")
    said = [part for block in _BLOCK.findall(PAGE.read_text("utf-8")) for part in _COMMAND.split(block)[1:]]
    ran = []
    for line, expected in zip(said[::2], said[1::2], strict=True):
        command, *arguments = shlex.split(line)
        if command == "export":
            monkeypatch.setenv(*arguments[0].split("=", 1))
            continue
        assert command == "wukong"
        cli.main([subnets.get(each, each) for each in arguments])
        shown = "".join(capsys.readouterr())
        for name, there in subnets.items():
            shown = shown.replace(there, name)
        got, want = settled(shown), settled(expected)
        assert OutputChecker().check_output(want, got, ELLIPSIS), f"{line} prints\n{got}\nand not\n{want}"
        ran.append(arguments[0])
    functions = ["deploy", "deploy", "deploy", "deploy", "deploy", "status", "destroy", "status"]
    assert ran == [*functions, "deploy", "deploy", "deploy", "deploy", "status", "deploy", "destroy"]
