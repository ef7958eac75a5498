"""Microsoft's Python SDK for Dataverse at work on the emulators. Started by run.py; README.md says what was found."""

import base64
import json
import os
import sys
import time
import traceback
import uuid
from importlib.metadata import version

import requests
from azure.core.credentials import AccessToken
from PowerPlatform.Dataverse import DataverseClient, col
from PowerPlatform.Dataverse.core.config import DataverseConfig
from PowerPlatform.Dataverse.core.errors import HttpError

EMULATORS = json.loads(os.environ["EMULATORS"])
FORMATTED = "OData.Community.Display.V1.FormattedValue"
PARTIES = "email_activity_parties"


class Control:
    """The emulators' own commands, which no client can see."""

    def __init__(self):
        self.commands = os.fdopen(int(os.environ["EMULATORS_COMMANDS"]), "w", encoding="utf-8", buffering=1)
        self.answers = os.fdopen(int(os.environ["EMULATORS_ANSWERS"]), encoding="utf-8")

    def __call__(self, command):
        self.commands.write(json.dumps(command) + "\n")
        return json.loads(self.answers.readline())

    def requests(self):
        return self("look")["requests"]


class Secret:
    """Client credentials from the emulators' Entra. The SDK asks anew for every request, so tokens are kept."""

    def __init__(self):
        self.kept = None

    def get_token(self, *scopes, **_options):
        if self.kept is None or self.kept.expires_on < time.time() + 60:
            form = {
                "grant_type": "client_credentials",
                "client_id": EMULATORS["client_id"],
                "client_secret": EMULATORS["client_secret"],
                "scope": scopes[0].replace("https://", "http://", 1),
            }
            address = f"{EMULATORS['authority']}/{EMULATORS['tenant_id']}/oauth2/v2.0/token"
            answer = requests.post(address, data=form, timeout=10)
            answer.raise_for_status()
            issued = answer.json()
            self.kept = AccessToken(issued["access_token"], int(time.time()) + issued["expires_in"])
        return self.kept


class Plain(requests.adapters.HTTPAdapter):
    """Leaves TLS off: the SDK takes addresses with https only, the emulators speak http. Nothing else changes."""

    def send(self, request, **options):
        request.url = request.url.replace("https://", "http://", 1)
        return super().send(request, **options)


def connect():
    config = DataverseConfig(http_backoff=0.01)
    client = DataverseClient(EMULATORS["dataverse_url"].replace("http://", "https://", 1), Secret(), config)
    client._session = requests.Session()  # What `with client:` would make, with another adapter.
    client._session.mount("https://127.0.0.1", Plain())
    return client


def expect(actual, wanted):
    assert actual == wanted, f"{actual!r} instead of {wanted!r}"


def refused(status, code, call, *arguments, **options):
    """Runs what has to fail, and compares status and code as the SDK reports them."""
    try:
        result = call(*arguments, **options)
    except HttpError as error:
        expect((error.status_code, error.details.get("service_error_code")), (status, code))
        return error
    raise AssertionError(f"{result!r} instead of a refusal")


results = []
emulators = Control()
client = connect()
records = client.records
# Ids of rows that later steps need.
ada, ben, first = (str(uuid.uuid4()) for _ in range(3))


def step(title):
    """Runs a step where it stands, and goes on after a failure."""

    def run(function):
        try:
            function()
            results.append(True)
            print(f"  ok    {title}")
        except Exception:
            results.append(False)
            print(f"  FAIL  {title}")
            traceback.print_exc(file=sys.stdout)

    return run


def with_fault(fault):
    """A read that meets a fault."""
    emulators(fault)
    return records.retrieve("email", first, select=["subject"])


def subjects(start):
    return [row["subject"] for row in records.list("email", filter=col("subject").startswith(start), select=["subject"])]


print(f"PowerPlatform-Dataverse-Client {version('PowerPlatform-Dataverse-Client')}, Python {sys.version.split()[0]}")


@step("creates two people under ids of its own")
def _():
    person = {"contactid": ada, "firstname": "Ada", "lastname": "Lark", "emailaddress1": "ada@example.com"}
    expect(records.create("contact", person), ada)
    person = {"contactid": ben, "firstname": "Ben", "lastname": "O'Wren", "emailaddress1": "ben@example.com"}
    expect(records.create("contact", person), ben)


@step("creates an email with its parties and what it regards")
def _():
    email = {
        "activityid": first,
        "subject": "Kites, 'ropes' & knots – 100 %",
        "description": "<p>Ünïcode 🪁</p>",
        "directioncode": False,
        "messageid": "<k+1@example.com>",
        "actualend": "2026-03-04T05:06:07Z",
        "regardingobjectid_contact_email@odata.bind": f"/contacts({ada})",
        PARTIES: [
            {"participationtypemask": 1, "partyid_contact@odata.bind": f"/contacts({ada})"},
            {"participationtypemask": 2, "partyid_contact@odata.bind": f"/contacts({ben})", "addressused": "ben@example.com"},
            {"participationtypemask": 3, "addressused": "nobody@example.com", "unresolvedpartyname": "Nobody"},
        ],
    }
    expect(records.create("email", email), first)


@step("reads it back with its parties and with annotations")
def _():
    row = records.retrieve(
        "email",
        first,
        select=["subject", "description", "directioncode", "actualend", "statuscode", "_regardingobjectid_value"],
        expand=[f"{PARTIES}($select=participationtypemask,addressused,_partyid_value)"],
        include_annotations="*",
    )
    expect(row["subject"], "Kites, 'ropes' & knots – 100 %")
    expect((row["description"], row["directioncode"]), ("<p>Ünïcode 🪁</p>", False))
    expect((row["actualend"], row[f"statuscode@{FORMATTED}"]), ("2026-03-04T05:06:07Z", "Draft"))
    expect(row["_regardingobjectid_value@Microsoft.Dynamics.CRM.lookuplogicalname"], "contact")
    parties = [(it["participationtypemask"], it["_partyid_value"], it["addressused"]) for it in row[PARTIES]]
    sent = [it for it in parties if it[0] in (1, 2, 3)]
    expect([(mask, who) for mask, who, _ in sent], [(1, ada), (2, ben), (3, None)])
    expect([address for *_, address in sent[1:]], ["ben@example.com", "nobody@example.com"])


@step("creates an attachment and reads its content back")
def _():
    content = base64.b64encode(bytes(range(256))).decode()
    attachment = {
        "objectid_activitypointer@odata.bind": f"/activitypointers({first})",
        "objecttypecode": "email",
        "filename": "kite.bin",
        "mimetype": "application/octet-stream",
        "body": content,
    }
    made = records.create("activitymimeattachment", attachment)
    row = records.retrieve("activitymimeattachment", made, select=["body", "filesize", "filename"])
    expect((row["body"], row["filesize"], row["filename"]), (content, 256, "kite.bin"))


@step("creates seven emails in one change set of a batch, which is one request")
def _():
    records.list("email", top=1)  # The SDK looks up the name of the set once.
    before = emulators.requests()
    batch = client.batch.new()
    with batch.changeset() as changes:
        for number in range(1, 8):
            changes.records.create("email", {"subject": f"page {number}", "prioritycode": number % 3})
    answer = batch.execute()
    expect([it.status_code for it in answer.responses], [204] * 7)
    expect([it.content_id for it in answer.responses], [str(number) for number in range(1, 8)])
    expect(len(set(answer.entity_ids)), 7)
    expect(emulators.requests() - before, 1)


@step("follows the links from page to page")
def _():
    pages = records.list_pages(
        "email", filter="startswith(subject,'page ')", select=["subject"], orderby=["subject desc"], page_size=3, count=True
    )
    shown = [[row["subject"][-1] for row in page] for page in pages]
    expect(shown, [["7", "6", "5"], ["4", "3", "2"], ["1"]])
    expect(len(records.list("email", filter="startswith(subject,'page ')", top=2)), 2)


@step("asks by comparison, text function, In, lookup, and, or, not")
def _():
    def found(condition):
        rows = records.list("email", filter=condition, select=["subject"], orderby=["subject asc"])
        return "".join(row["subject"][-1] for row in rows if row["subject"].startswith("page"))

    page = col("subject").startswith("PAGE")
    expect(found(page & (col("prioritycode") == 2)), "25")
    expect(found(page & ~(col("prioritycode") < 2)), "25")
    expect(found(col("subject").endswith("e 3") | col("subject").contains("ge 4")), "34")
    expect(found(col("subject").in_(["page 1", "PAGE 7", "page 9"])), "17")
    rows = records.list("email", filter=f"_regardingobjectid_value eq {ada} and actualend ne null", select=["activityid"])
    expect([row["activityid"] for row in rows], [first])
    rows = records.list("contact", filter=col("lastname") == "O'Wren", select=["contactid"])
    expect([row["contactid"] for row in rows], [ben])


@step("changes an email, and never makes one by a change")
def _():
    records.update("email", first, {"subject": "Kites", "category": "sky"})
    expect(records.retrieve("email", first, select=["subject"])["subject"], "Kites")
    refused(404, "0x80040217", records.update, "email", str(uuid.uuid4()), {"subject": "x"})


@step("upserts by alternate key: makes the row, then changes it")
def _():
    emulators({"add_key": ["email", "new_key"]})
    for subject in ("once", "twice"):
        item = {"alternate_key": {"new_key": "a1b2"}, "record": {"subject": subject}}
        records.upsert("email", [item])
    rows = records.list("email", filter=col("new_key") == "A1B2", select=["subject"])
    expect([row["subject"] for row in rows], ["twice"])


@step("deletes, and then finds nothing")
def _():
    made = records.create("email", {"subject": "short-lived"})
    records.delete("email", made)
    expect(records.retrieve("email", made), None)
    refused(404, "0x80040217", records.delete, "email", made)


@step("one change set creates an email, attaches a file to $1 and completes $1")
def _():
    batch = client.batch.new()
    with batch.changeset() as changes:
        new = changes.records.create("email", {"subject": "whole", "directioncode": False})
        file = {"objecttypecode": "email", "filename": "a.txt", "mimetype": "text/plain", "body": "YQ=="}
        changes.records.create("activitymimeattachment", {**file, "objectid_activitypointer@odata.bind": new})
        changes.records.update("email", new, {"statecode": 1, "statuscode": 4})
    answer = batch.execute()
    expect([it.status_code for it in answer.responses], [204, 204, 204])
    row = records.retrieve("email", answer.entity_ids[0], select=["statecode", "statuscode", "attachmentcount"])
    expect((row["statecode"], row["statuscode"], row["attachmentcount"]), (1, 4, 1))
    refused(400, "0x80043500", records.update, "email", answer.entity_ids[0], {"subject": "too late"})


def failing_batch(continue_on_error):
    """A read, a change set whose second operation repeats an id, and a create behind it."""
    name = str(uuid.uuid4())
    batch = client.batch.new()
    batch.records.list("contact", filter="lastname eq 'O''Wren' and statecode eq 0", select=["lastname"])
    with batch.changeset() as changes:
        changes.records.create("email", {"subject": f"{name} lost"})
        changes.records.create("email", {"activityid": first, "subject": f"{name} repeated"})
    batch.records.create("email", {"subject": f"{name} kept"})
    return name, lambda: batch.execute(continue_on_error=continue_on_error)


@step("a change set that fails leaves nothing and harms no neighbour, in both shapes of its answer")
def _():
    for bare in (False, True):
        emulators({"bare_change_set_errors": bare})
        name, execute = failing_batch(continue_on_error=True)
        read, failure, kept = execute().responses
        expect([row["lastname"] for row in read.data["value"]], ["O'Wren"])
        expect((failure.status_code, failure.error_code, failure.content_id), (412, "0x80040237", "2"))
        expect(kept.status_code, 204)
        expect(subjects(name), [f"{name} kept"])
    emulators({"bare_change_set_errors": False})


@step("without continue-on-error the batch ends at the failure, with the status of the failure")
def _():
    name, execute = failing_batch(continue_on_error=False)
    error = refused(412, None, execute)
    assert "0x80040237" not in str(error) and not error.is_transient
    expect(subjects(name), [])
    batch = client.batch.new()
    batch.records.create("email", {"no_such_column": 1})
    batch.records.create("email", {"subject": f"{name} never reached"})
    answer = batch.execute()
    expect([(it.status_code, it.error_code) for it in answer.responses], [(400, "0x80048d19")])
    expect(subjects(name), [])


@step("reports each refusal with its status and code")
def _():
    create, update = records.create, records.update
    refused(400, "0x80048d19", create, "email", {"no_such_column": 1})
    refused(400, "0x80048d19", create, "email", {"subject": 5})
    refused(400, "0x80048d19", create, "email", {"regardingobjectid_Contact_email@odata.bind": f"/contacts({ada})"})
    refused(404, "0x80040217", create, "email", {"regardingobjectid_contact_email@odata.bind": f"/contacts({uuid.uuid4()})"})
    refused(400, "0x80044331", create, "email", {"subject": "x" * 801})
    refused(400, "0x80048408", create, "email", {"subject": "x", "statuscode": 4})
    refused(412, "0x80040237", create, "email", {"activityid": first})
    refused(412, "0x80060892", create, "email", {"new_key": "A1B2"})
    refused(400, "0x80048d19", update, "email", first, {PARTIES: []})
    refused(405, "0x80060888", create, "activityparty", {"participationtypemask": 2})
    refused(400, "0x80060888", records.list, "email", select=["no_such_column"])
    refused(400, "0x80060888", records.list, "email", filter="no_such_column eq 1")
    assert refused(503, "0x8004A001", with_fault, {"refuse": [503, "0x8004A001", None]}).is_transient
    assert not refused(500, "0x80040216", with_fault, {"refuse": [500, "0x80040216", None]}).is_transient


@step("hands on a 429 with its Retry-After, and is let in after that time")
def _():
    before = emulators.requests()
    error = refused(429, "0x80072322", with_fault, {"refuse": [429, "0x80072322", 1]})
    expect((error.is_transient, error.details["retry_after"]), (True, 1))
    expect(emulators.requests() - before, 1)
    time.sleep(error.details["retry_after"])
    expect(records.retrieve("email", first, select=["subject"])["subject"], "Kites")


@step("repeats by itself what lost its connection")
def _():
    before = emulators.requests()
    expect(with_fault("reset_before")["subject"], "Kites")
    expect(emulators.requests() - before, 2)


@step("its repeated create after a lost answer makes no second row, since the row has an id")
def _():
    name = str(uuid.uuid4())
    emulators("reset_after_commit")
    refused(412, "0x80040237", records.create, "email", {"activityid": name, "subject": name})
    expect(subjects(name), [name])


@step("nothing that it sent was dropped")
def _():
    expect(emulators("look")["dropped"], [])


@step("a read-only column is dropped without a word, and the emulator says so")
def _():
    made = records.create("email", {"subject": "x", "senton": "2026-03-04T05:06:07Z"})
    expect(records.retrieve("email", made, select=["senton"])["senton"], None)
    expect(emulators("look")["dropped"], [["email", "senton"]])


client.close()
print(f"{results.count(True)} passed, {results.count(False)} failed")
sys.exit(0 if all(results) else 1)
