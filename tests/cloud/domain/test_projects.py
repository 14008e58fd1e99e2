"""Which mailboxes are the same, and how strict a task is."""

import pytest
from bmsota_cloud.domain.errors import InvalidInputError
from bmsota_cloud.domain.projects import ApprovalWay, Project, check_project_name, is_same_mailbox


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("carol@example.org", "carol@example.org", True),
        ("carol@example.org", "Carol@Example.ORG ", True),
        ("carol+audit@example.org", "carol@example.org", True),
        ("carol+a@example.org", "carol+b@example.org", True),
        ("carol@example.org", "carol@example.com", False),
        ("carol@example.org", "caro@example.org", False),
        ("", "", False),
        ("", "carol@example.org", False),
    ],
)
def test_an_address_spelt_otherwise_is_the_same_mailbox(one, other, same):
    assert is_same_mailbox(one, other) is same
    assert is_same_mailbox(other, one) is same


def test_a_task_may_be_stricter_than_its_project_and_never_laxer():
    default, strict = Project(name="p"), Project(name="p", approval=ApprovalWay.NAMED_AUDITOR)
    assert [default.way_of(""), default.way_of("alan"), strict.way_of(""), strict.way_of("alan")] == [
        ApprovalWay.AUDIT_MAILBOX,
        ApprovalWay.NAMED_AUDITOR,
        ApprovalWay.NAMED_AUDITOR,
        ApprovalWay.NAMED_AUDITOR,
    ]


@pytest.mark.parametrize("name", ["", "a/b", "x" * 65, "a\nb", "<p>"])
def test_what_is_no_name_of_a_project(name):
    with pytest.raises(InvalidInputError):
        check_project_name(name)
