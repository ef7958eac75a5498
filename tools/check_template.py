"""Is template.yaml right, where `sam validate --lint` cannot see it?

    check_template.py [TEMPLATE [EXPANDED]]

Three steps, each stricter than the one before:

1. The SAM translator turns the template into the CloudFormation that AWS will get, written to EXPANDED. Parameters have
   their defaults; those without one get the value in EXAMPLES.
2. cfn-lint reads that. On the SAM file itself it misses wrong references, runtimes and limits inside functions.
3. The rules below, one function each: what must hold between the parts of this project, and what no linter checks.

Prints one line for each problem and exits 1 if there is one. test_check_template.py plants each fault.
"""

import fnmatch
import json
import logging
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from samtranslator.public.exceptions import InvalidDocumentException
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

# It remarks after every expansion that it published no metrics.
logging.getLogger("samtranslator").setLevel(logging.ERROR)

PROJECT = Path(__file__).resolve().parent.parent

EXAMPLES = {
    "DataverseUrl": "https://yourorg.crm.dynamics.com",
    "EntraTenantId": "00000000-0000-0000-0000-000000000000",
    "EntraClientId": "00000000-0000-0000-0000-000000000000",
    "Mailboxes": "example.com",
}


def constant(file, declaration):
    """A number that the code declares: read there, so that code and template cannot drift apart."""
    found = re.search(declaration + r"\D*(\d+)", (PROJECT / file).read_text(encoding="utf-8"))
    if not found:
        sys.exit(f"{file} no longer declares {declaration!r}; tell {Path(__file__).name} where it went")
    return int(found[1])


# How long a claim holds, and after how many deliveries the code gives a message up.
LEASE_SECONDS = constant("shared/src/ledger/claim_rule.rs", r"const LEASE: TimeDelta = TimeDelta::seconds")
RECEIVE_LIMIT = constant("shared/src/clients/retry.rs", r"const RECEIVE_LIMIT: u32 =")

# How long the backfill keeps a mailbox.
TASK_LEASE_SECONDS = constant("shared/src/ledger/mailbox_state.rs", r"const TASK_LEASE: TimeDelta = TimeDelta::seconds")

# SQS hides a message for 12 hours at most.
LONGEST_HIDE_SECONDS = 43_200

RECEIVER, WORKER, BACKFILL, REFRESHER = "webhook-receiver", "sync-worker", "backfill", "token-refresher"

# Who reads which setting. A function that lacks one does not start; one too many is a resource it has no business with.
READERS = {
    "DATAVERSE_URL": {WORKER, BACKFILL, REFRESHER},
    "ENTRA_AUTHORITY": {REFRESHER},
    "ENTRA_TENANT_ID": {REFRESHER},
    "ENTRA_CLIENT_ID": {REFRESHER},
    "ENTRA_SECRET_ID": {REFRESHER},
    "TOKEN_SECRET_ID": {WORKER, BACKFILL, REFRESHER},
    "NYLAS_API_URL": {WORKER, BACKFILL},
    "NYLAS_API_KEY_SECRET_ID": {WORKER, BACKFILL},
    "WEBHOOK_SECRET_ID": {RECEIVER},
    "NYLAS_APPLICATION_ID": {RECEIVER},
    "MAILBOXES": {WORKER, BACKFILL},
    "LEDGER_TABLE": {WORKER, BACKFILL},
    "SYNC_QUEUE_URL": {RECEIVER, WORKER, BACKFILL},
    "BACKFILL_QUEUE_URL": {BACKFILL},
    "WRITE_MODE": {WORKER, BACKFILL},
    "CREATED_ON": {WORKER, BACKFILL},
    "RESOLVED_PEOPLE_LIMIT": {WORKER, BACKFILL},
    "DATAVERSE_LIMITS": {WORKER, BACKFILL},
    "DATAVERSE_APPLICATION_USERS": {BACKFILL},
    "STACK_NAME": {RECEIVER, WORKER, BACKFILL, REFRESHER},
    "RUST_LOG": {RECEIVER, WORKER, BACKFILL, REFRESHER},
}

# What each function asks of AWS, on what its settings name. Logging and the report of a failed run come on top.
CALLS = {
    RECEIVER: {
        "secretsmanager:GetSecretValue": ["WEBHOOK_SECRET_ID"],
        "sqs:SendMessage": ["SYNC_QUEUE_URL"],
    },
    WORKER: {
        "dynamodb:BatchGetItem": ["LEDGER_TABLE"],
        "dynamodb:GetItem": ["LEDGER_TABLE"],
        "dynamodb:UpdateItem": ["LEDGER_TABLE"],
        "secretsmanager:GetSecretValue": ["TOKEN_SECRET_ID", "NYLAS_API_KEY_SECRET_ID"],
        "sqs:ChangeMessageVisibility": ["SYNC_QUEUE_URL"],
        "sqs:DeleteMessage": ["SYNC_QUEUE_URL"],
        "sqs:GetQueueAttributes": ["SYNC_QUEUE_URL"],
        "sqs:ReceiveMessage": ["SYNC_QUEUE_URL"],
        "sqs:SendMessage": ["SYNC_QUEUE_URL"],
    },
    BACKFILL: {
        "dynamodb:BatchGetItem": ["LEDGER_TABLE"],
        "dynamodb:GetItem": ["LEDGER_TABLE"],
        "dynamodb:Query": ["LEDGER_TABLE", "LEDGER_TABLE/index/attention"],
        "dynamodb:UpdateItem": ["LEDGER_TABLE"],
        "secretsmanager:GetSecretValue": ["TOKEN_SECRET_ID", "NYLAS_API_KEY_SECRET_ID"],
        "sqs:ChangeMessageVisibility": ["BACKFILL_QUEUE_URL"],
        "sqs:DeleteMessage": ["BACKFILL_QUEUE_URL"],
        "sqs:GetQueueAttributes": ["SYNC_QUEUE_URL", "BACKFILL_QUEUE_URL"],
        "sqs:ReceiveMessage": ["BACKFILL_QUEUE_URL"],
        "sqs:SendMessage": ["SYNC_QUEUE_URL", "BACKFILL_QUEUE_URL"],
    },
    REFRESHER: {
        "secretsmanager:GetSecretValue": ["ENTRA_SECRET_ID", "TOKEN_SECRET_ID"],
        "secretsmanager:PutSecretValue": ["TOKEN_SECRET_ID"],
        "secretsmanager:UpdateSecretVersionStage": ["TOKEN_SECRET_ID"],
    },
}

# What SQS, DynamoDB and Secrets Manager need of whoever calls them, for a customer managed key.
KEY_CALLS = ("kms:Decrypt", "kms:GenerateDataKey")

# The partition keys of the ledger that a function writes: `#` stands before an id. Nobody but an operator writes `policy`.
WRITES = {
    WORKER: ["mailbox#", "rate_limit"],
    BACKFILL: ["mailbox#", "run#", "rate_limit"],
}
POLICY_KEY = "policy"

# What changes an item. PartiQL is a way around the others.
WRITE_ACTIONS = {
    f"dynamodb:{action}"
    for action in (
        "UpdateItem PutItem DeleteItem BatchWriteItem PartiQLUpdate PartiQLInsert PartiQLDelete".split()
    )
}

# The metrics that the code counts.
METRICS = set(
    re.findall(r'Self::\w+ => "(\w+)"', (PROJECT / "shared/src/telemetry.rs").read_text(encoding="utf-8"))
)

# The indexes of the ledger.
ATTENTION = {
    "IndexName": "attention",
    "KeySchema": [
        {"AttributeName": "attention", "KeyType": "HASH"},
        {"AttributeName": "since_ms", "KeyType": "RANGE"},
    ],
    "Projection": {"ProjectionType": "ALL"},
}
ACTIVITY = {
    "IndexName": "activity",
    "KeySchema": [{"AttributeName": "activity_id", "KeyType": "HASH"}],
    "Projection": {"ProjectionType": "KEYS_ONLY"},
}

# What kind of resource a setting names, by how its name ends.
NAMES_A = {
    "_SECRET_ID": "AWS::SecretsManager::Secret",
    "_QUEUE_URL": "AWS::SQS::Queue",
    "_TABLE": "AWS::DynamoDB::Table",
}


# ---- 1. expand --------------------------------------------------------------------------------------------------------


class _NoManagedPolicies:
    """Instead of the translator's list from AWS: this template uses none of AWS's own policies."""

    def load(self):
        return {}


def expand(template):
    """The CloudFormation that SAM makes of `template`; raises InvalidDocumentException where it cannot."""
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            # The translator wants code that has been uploaded. The folder stays readable as the key.
            resource["Properties"]["CodeUri"] = {"Bucket": "code", "Key": resource["Properties"]["CodeUri"]}
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
    return transform(template, EXAMPLES, _NoManagedPolicies())


# ---- 2. lint ----------------------------------------------------------------------------------------------------------


def lint(expanded_file):
    """What cfn-lint says about the expanded template, or None."""
    command = [Path(sys.executable).with_name("cfn-lint"), "--format", "parseable", expanded_file]
    run = subprocess.run(command, capture_output=True, text=True)
    return None if run.returncode == 0 else (run.stdout + run.stderr).strip()


# ---- 3. rules: each takes the expanded resources and yields problems ---------------------------------------------------


def of_type(resources, kind):
    return {name: r.get("Properties", {}) for name, r in resources.items() if r["Type"] == kind}


def target(reference):
    """The resource that a Ref or Fn::GetAtt names, or the part of one that a Fn::Sub names (`Ledger/index/x`), or None."""
    if isinstance(reference, dict):
        # A setting that is empty by default: what holds without it.
        if reference.get("Fn::If", [None])[0] in ("HasLedgerTable", "HasKmsKey"):
            return target(reference["Fn::If"][2])
        if "Ref" in reference:
            return reference["Ref"]
        if "Fn::GetAtt" in reference:
            return reference["Fn::GetAtt"][0]
        part = re.fullmatch(r"\$\{(\w+)\.Arn\}(/.+)", str(reference.get("Fn::Sub")))
        if part:
            return part[1] + part[2]
    return None


def folder_name(function):
    return function["Code"]["S3Key"].split("/")[-1]


def functions(resources):
    return {folder_name(f): f for f in of_type(resources, "AWS::Lambda::Function").values()}


def as_list(value):
    return value if isinstance(value, list) else [value]


def every_function_builds_its_own_folder(resources):
    for name, resource in resources.items():
        if resource["Type"] == "AWS::Lambda::Function":
            folder = resource["Properties"]["Code"]["S3Key"]
            metadata = resource.get("Metadata", {})
            if metadata.get("BuildMethod") != "rust-cargolambda":
                yield f"{name}: BuildMethod is not rust-cargolambda"
            if metadata.get("BuildProperties", {}).get("Binary") != folder_name(resource["Properties"]):
                yield f"{name}: Binary differs from the folder {folder}"
            if not (PROJECT / folder / "Cargo.toml").is_file():
                yield f"{name}: {folder} holds no crate"


def schedules_are_grammatical(resources):
    """EventBridge wants `rate(1 minute)` but `rate(15 minutes)`, and says so only when it is deployed."""
    for kind in ("AWS::Scheduler::Schedule", "AWS::Events::Rule"):
        for name, schedule in of_type(resources, kind).items():
            expression = schedule.get("ScheduleExpression", "")
            rate = re.fullmatch(r"rate\(([1-9]\d*) (minute|hour|day)(s?)\)", expression)
            right = (
                (rate[3] == "") == (rate[1] == "1")
                if rate
                else re.fullmatch(r"cron\(\S+( \S+){5}\)|at\(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\)", expression)
            )
            if not right:
                yield f"{name}: EventBridge will refuse {expression!r}"


def a_worker_ends_before_its_lease_and_the_lease_before_redelivery(resources):
    for name, setting, lease in [
        (WORKER, "SYNC_QUEUE_URL", LEASE_SECONDS),
        (BACKFILL, "BACKFILL_QUEUE_URL", TASK_LEASE_SECONDS),
    ]:
        worker = functions(resources)[name]
        queue = target(worker["Environment"]["Variables"].get(setting))
        timeout = worker["Timeout"]
        visibility = resources[queue]["Properties"].get("VisibilityTimeout", 30) if queue in resources else 0
        if not timeout < lease < visibility:
            yield f"{name}: not true that Timeout {timeout} < lease {lease} < VisibilityTimeout {visibility}"


def only_nylas_may_call_without_iam(resources):
    receiver = [name for name, f in of_type(resources, "AWS::Lambda::Function").items() if folder_name(f) == RECEIVER]
    for name, url in of_type(resources, "AWS::Lambda::Url").items():
        if url.get("AuthType") != "AWS_IAM" and target(url["TargetFunctionArn"]) not in receiver:
            yield f"{name}: anybody may call it"


def a_task_comes_alone(resources):
    """A task takes what time there is: a second one in the batch would get none."""
    tasks = target(functions(resources)[BACKFILL]["Environment"]["Variables"].get("BACKFILL_QUEUE_URL"))
    for name, mapping in of_type(resources, "AWS::Lambda::EventSourceMapping").items():
        if target(mapping.get("EventSourceArn")) == tasks and mapping.get("BatchSize") != 1:
            yield f"{name}: BatchSize is {mapping.get('BatchSize')}, not 1"


def the_receiver_answers_while_nylas_listens(resources):
    timeout = functions(resources)[RECEIVER]["Timeout"]
    if timeout >= 10:
        yield f"{RECEIVER}: Timeout {timeout}, but Nylas waits 10 seconds"


def the_receiver_has_a_share_of_its_own_and_is_never_stopped(resources):
    """Reserved by a parameter, and not at all where that is 0: a reservation of 0 would stop the function."""
    reserved = functions(resources)[RECEIVER].get("ReservedConcurrentExecutions")
    choice = reserved.get("Fn::If") if isinstance(reserved, dict) else None
    if not choice or target(choice[1]) is None or choice[2] != {"Ref": "AWS::NoValue"}:
        yield f"{RECEIVER}: ReservedConcurrentExecutions {json.dumps(reserved)} is not a parameter with 0 for none"


def queue_readers_report_message_by_message(resources):
    for name, mapping in of_type(resources, "AWS::Lambda::EventSourceMapping").items():
        if mapping.get("FunctionResponseTypes") != ["ReportBatchItemFailures"]:
            yield f"{name}: without ReportBatchItemFailures one bad message fails its whole batch"


def settings_go_to_their_readers(resources):
    values = defaultdict(dict)
    for function, properties in functions(resources).items():
        for variable, value in properties.get("Environment", {}).get("Variables", {}).items():
            values[variable][function] = value
    for variable in sorted(READERS.keys() | values.keys()):
        readers, given = READERS.get(variable, set()), values[variable]
        for function in sorted(readers - given.keys()):
            yield f"{function}: lacks {variable}"
        for function in sorted(given.keys() - readers):
            yield f"{function}: has {variable}, which it does not read"
        if len({json.dumps(value, sort_keys=True) for value in given.values()}) > 1:
            yield f"{variable}: differs between {', '.join(sorted(given))}"
        for ending, kind in NAMES_A.items():
            if variable.endswith(ending):
                for function, value in sorted(given.items()):
                    if resources.get(target(value), {}).get("Type") != kind:
                        yield f"{function}: {variable} names no {kind} of this template"


def statements(resources):
    """Every policy statement with the logical id of each role that has it."""
    for name, role in of_type(resources, "AWS::IAM::Role").items():
        for policy in role.get("Policies", []):
            for statement in as_list(policy["PolicyDocument"]["Statement"]):
                yield {name}, statement
    for policy in of_type(resources, "AWS::IAM::Policy").values():
        for statement in as_list(policy["PolicyDocument"]["Statement"]):
            yield {target(role) for role in policy["Roles"]}, statement


def policies_name_what_they_allow(resources):
    for name, role in of_type(resources, "AWS::IAM::Role").items():
        for managed in role.get("ManagedPolicyArns", []):
            yield f"{name}: {json.dumps(managed)} allows what this template does not say"
    for roles, statement in statements(resources):
        where = ", ".join(sorted(roles))
        for opposite in statement.keys() & {"NotAction", "NotResource", "NotPrincipal"}:
            yield f"{where}: {opposite} allows everything else"
        for part in ("Action", "Resource"):
            for value in as_list(statement.get(part, [])):
                if "*" in json.dumps(value):
                    yield f"{where}: {part} {json.dumps(value)} has a wildcard"


def failed_runs_go_to(resources):
    """Where Lambda reports the failed runs of a function: logical id of the function to that of the queue."""
    return {
        target(config["FunctionName"]): target(
            config.get("DestinationConfig", {}).get("OnFailure", {}).get("Destination")
        )
        for config in of_type(resources, "AWS::Lambda::EventInvokeConfig").values()
    }


def functions_may_do_what_they_do_and_no_more(resources):
    failed_runs = failed_runs_go_to(resources)
    for name, properties in of_type(resources, "AWS::Lambda::Function").items():
        function = folder_name(properties)
        variables = properties.get("Environment", {}).get("Variables", {})
        needed = defaultdict(set)
        for action, settings in CALLS[function].items():
            for setting in settings:
                variable, slash, part = setting.partition("/")
                resource = target(variables.get(variable))
                needed[action] |= {resource + slash + part} if resource else set()
        for action in ("logs:CreateLogStream", "logs:PutLogEvents"):
            needed[action] = {target(properties["LoggingConfig"]["LogGroup"])}
        for action in KEY_CALLS:
            needed[action] = {"KmsKeyArn"}
        if failed_runs.get(name):
            needed["sqs:SendMessage"].add(failed_runs[name])
        allowed = defaultdict(set)
        for roles, statement in statements(resources):
            if target(properties["Role"]) in roles and statement["Effect"] == "Allow":
                for action in as_list(statement.get("Action", [])):
                    allowed[action] |= {str(target(r) or r) for r in as_list(statement.get("Resource", []))}
        for action in sorted(needed.keys() | allowed.keys()):
            for resource in sorted(needed[action] - allowed[action]):
                yield f"{function}: may not {action} {resource}, but has to"
            for resource in sorted(allowed[action] - needed[action]):
                yield f"{function}: may {action} {resource}, but never has to"


def watched_queues(resources):
    """The queues that raise an alarm as soon as a message is in them."""
    return {
        target(dimension["Value"])
        for alarm in of_type(resources, "AWS::CloudWatch::Alarm").values()
        if alarm.get("MetricName") == "ApproximateNumberOfMessagesVisible" and alarm.get("Threshold") == 0
        for dimension in alarm.get("Dimensions", [])
    }


def a_message_gets_all_its_deliveries(resources):
    """The queue gives a message up when the code does, not before and not by letting it grow old."""
    queues = of_type(resources, "AWS::SQS::Queue")
    settings = ("SYNC_QUEUE_URL", "BACKFILL_QUEUE_URL")
    variables = [f["Environment"]["Variables"] for f in functions(resources).values()]
    for name in sorted({target(v.get(setting)) or "" for v in variables for setting in settings}):
        queue = queues.get(name, {})
        receives = queue.get("RedrivePolicy", {}).get("maxReceiveCount")
        if name and receives != RECEIVE_LIMIT:
            yield f"{name}: maxReceiveCount is {receives}, the code's limit {RECEIVE_LIMIT}"
        if name and kept(queue) <= RECEIVE_LIMIT * LONGEST_HIDE_SECONDS:
            yield f"{name}: a message that is hidden for long each time vanishes before its last delivery"


def nothing_leaves_a_queue_unseen(resources):
    """A queue that is read has a dead-letter queue, which keeps messages for longer and raises an alarm."""
    queues, watched = of_type(resources, "AWS::SQS::Queue"), watched_queues(resources)
    for name, queue in queues.items():
        dead_letters = target(queue.get("RedrivePolicy", {}).get("deadLetterTargetArn"))
        if dead_letters is None:
            if name not in watched:
                yield f"{name}: neither a dead-letter queue nor an alarm"
        # SQS counts a dead letter's age from when it was first sent.
        elif kept(queues[dead_letters]) <= kept(queue):
            yield f"{dead_letters}: keeps messages no longer than {name}, so dead letters vanish early"
    for name, mapping in of_type(resources, "AWS::Lambda::EventSourceMapping").items():
        source = target(mapping.get("EventSourceArn"))
        if source in queues and "RedrivePolicy" not in queues[source]:
            yield f"{source}: is read by a function and has no dead-letter queue"


def kept(queue):
    """Seconds that a queue keeps a message; SQS's default is four days."""
    return queue.get("MessageRetentionPeriod", 345_600)


def no_run_fails_unseen(resources):
    watched, failed_runs = watched_queues(resources), failed_runs_go_to(resources)
    for name, schedule in of_type(resources, "AWS::Scheduler::Schedule").items():
        function = target(schedule["Target"]["Arn"])
        if target(schedule["Target"].get("DeadLetterConfig", {}).get("Arn")) not in watched:
            yield f"{name}: a run that cannot start raises no alarm"
        if failed_runs.get(function) not in watched:
            yield f"{function}: a run that fails raises no alarm"


def the_ledger_is_as_the_code_has_it_and_survives(resources):
    for name, table in of_type(resources, "AWS::DynamoDB::Table").items():
        keys = [(key["AttributeName"], key["KeyType"]) for key in table["KeySchema"]]
        expiry = table.get("TimeToLiveSpecification", {})
        types = {a["AttributeName"]: a["AttributeType"] for a in table["AttributeDefinitions"]}
        if keys != [("pk", "HASH"), ("sk", "RANGE")]:
            yield f"{name}: keys are {keys}, not pk and sk"
        if types != {"pk": "S", "sk": "S", "attention": "S", "since_ms": "N", "activity_id": "S"}:
            yield f"{name}: the keys have the types {types}"
        indexes = {index["IndexName"]: index for index in table.get("GlobalSecondaryIndexes", [])}
        for index in (ATTENTION, ACTIVITY):
            if indexes.pop(index["IndexName"], None) != index:
                yield f"{name}: the index `{index['IndexName']}` is not as the code has it (shared/src/ledger/table.rs)"
        for index in indexes:
            yield f"{name}: nobody reads the index `{index}`"
        if expiry.get("AttributeName") != "expires_at" or not expiry.get("Enabled"):
            yield f"{name}: rows do not expire by expires_at"
        if not table.get("PointInTimeRecoverySpecification", {}).get("PointInTimeRecoveryEnabled"):
            yield f"{name}: no recovery to a point in time"
        if {resources[name].get("DeletionPolicy"), resources[name].get("UpdateReplacePolicy")} != {"Retain"}:
            yield f"{name}: goes when the stack goes"


def whose_mail_is_read_is_for_a_person_to_say(parameters):
    if "Default" in parameters.get("Mailboxes", {"Default": None}):
        yield "Mailboxes: is no parameter, or has a default; whoever deploys has to name the mailboxes"


def role_of(resources, function):
    return target(functions(resources)[function]["Role"])


def only_an_operator_writes_the_policy(resources):
    """Whoever may write to the ledger may write the items that it has to, and not the policy."""
    for roles, statement in statements(resources):
        actions = set(as_list(statement.get("Action", []))) & WRITE_ACTIONS
        if not actions or statement["Effect"] != "Allow":
            continue
        where = f"{', '.join(sorted(roles))}: {', '.join(sorted(actions))}"
        condition = statement.get("Condition", {}).get("ForAllValues:StringLike", {})
        keys = as_list(condition.get("dynamodb:LeadingKeys", []))
        if not keys:
            yield f"{where} without a condition on dynamodb:LeadingKeys: it may write the policy"
        for key in keys:
            if fnmatch.fnmatchcase(POLICY_KEY, key):
                yield f"{where}: {key!r} lets it write the policy"
        for function, written in WRITES.items():
            if keys and role_of(resources, function) in roles:
                for key in written:
                    if not any(fnmatch.fnmatchcase(key + "1" * key.endswith("#"), pattern) for pattern in keys):
                        yield f"{function}: may not write the items of {key}, but has to"
                for pattern in keys:
                    if not any(fnmatch.fnmatchcase(key + "1" * key.endswith("#"), pattern) for key in written):
                        yield f"{function}: may write the items of {pattern}, but never has to"


def a_named_ledger_takes_the_place_of_the_own_everywhere(resources):
    """The parameter LedgerTableName: the setting and the rights go to one table, be it the stack's or another."""
    table = "arn:${AWS::Partition}:dynamodb:${AWS::Region}:${AWS::AccountId}:table/${LedgerTableName}"
    uses = []
    for function, properties in functions(resources).items():
        value = properties["Environment"]["Variables"].get("LEDGER_TABLE")
        if value:
            uses.append((f"{function}: LEDGER_TABLE", value, {"Ref": "LedgerTableName"}))
    for roles, statement in statements(resources):
        for resource in as_list(statement.get("Resource", [])):
            name, slash, part = str(target(resource)).partition("/")
            if resources.get(name, {}).get("Type") == "AWS::DynamoDB::Table":
                uses.append((f"{', '.join(sorted(roles))}: Resource", resource, {"Fn::Sub": table + slash + part}))
    for where, value, expected in uses:
        condition, other, _ = value.get("Fn::If", [None, None, None])
        if condition != "HasLedgerTable" or other != expected:
            yield f"{where} stays with the stack's own table when LedgerTableName names another"


def with_a_key_of_ones_own_everything_is_under_it(resources):
    """The parameter KmsKeyArn. Where EventBridge Scheduler sends, its own role would need rights of the key: left out."""
    own = {"Fn::If": ["HasKmsKey", {"Ref": "KmsKeyArn"}, {"Ref": "AWS::NoValue"}]}
    failed_runs = set(failed_runs_go_to(resources).values())
    for kind, where in [
        ("AWS::SQS::Queue", ["KmsMasterKeyId"]),
        ("AWS::DynamoDB::Table", ["SSESpecification", "KMSMasterKeyId"]),
        ("AWS::SecretsManager::Secret", ["KmsKeyId"]),
        ("AWS::Logs::LogGroup", ["KmsKeyId"]),
    ]:
        for name, properties in of_type(resources, kind).items():
            key = properties
            for part in where:
                key = key.get(part, {})
            if name in failed_runs:
                if key or properties.get("SqsManagedSseEnabled") is not True:
                    yield f"{name}: EventBridge Scheduler could not send to it, or it is not encrypted"
            elif key != own:
                yield f"{name}: is not under the key of KmsKeyArn"


def metrics_and_alarms_are_of_this_stack(resources):
    """Two stacks in one account share the namespace: without the dimension one rings for the other."""
    stack = {"Ref": "AWS::StackName"}
    for function, properties in functions(resources).items():
        if properties["Environment"]["Variables"].get("STACK_NAME") != stack:
            yield f"{function}: STACK_NAME is not the stack's name"
    for name, alarm in of_type(resources, "AWS::CloudWatch::Alarm").items():
        if alarm.get("Namespace") == "mailverse":
            if alarm.get("Dimensions") != [{"Name": "Stack", "Value": stack}]:
                yield f"{name}: its metric is not that of this stack: the dimension `Stack` is missing"
            if alarm["MetricName"] not in METRICS:
                yield f"{name}: nobody counts {alarm['MetricName']} (shared/src/telemetry.rs)"


RULES = [
    every_function_builds_its_own_folder,
    schedules_are_grammatical,
    a_worker_ends_before_its_lease_and_the_lease_before_redelivery,
    only_nylas_may_call_without_iam,
    a_task_comes_alone,
    the_receiver_answers_while_nylas_listens,
    the_receiver_has_a_share_of_its_own_and_is_never_stopped,
    queue_readers_report_message_by_message,
    settings_go_to_their_readers,
    policies_name_what_they_allow,
    functions_may_do_what_they_do_and_no_more,
    a_message_gets_all_its_deliveries,
    nothing_leaves_a_queue_unseen,
    no_run_fails_unseen,
    the_ledger_is_as_the_code_has_it_and_survives,
    only_an_operator_writes_the_policy,
    a_named_ledger_takes_the_place_of_the_own_everywhere,
    with_a_key_of_ones_own_everything_is_under_it,
    metrics_and_alarms_are_of_this_stack,
]


def broken_rules(expanded):
    resources = expanded["Resources"]
    strangers = functions(resources).keys() ^ CALLS.keys()
    if strangers:
        return [f"{name}: a function here or in the template, not in both" for name in sorted(strangers)]
    problems = [problem for rule in RULES for problem in rule(resources)]
    return problems + list(whose_mail_is_read_is_for_a_person_to_say(expanded["Parameters"]))


def main(template_file, expanded_file):
    try:
        expanded = expand(yaml_parse(template_file.read_text(encoding="utf-8")))
    except InvalidDocumentException as refusal:
        return [f"SAM: {cause.message}" for cause in refusal.causes]
    expanded_file.parent.mkdir(parents=True, exist_ok=True)
    expanded_file.write_text(json.dumps(expanded, indent=2), encoding="utf-8")
    complaint = lint(expanded_file)
    problems = ([complaint] if complaint else []) + broken_rules(expanded)
    if not problems:
        size = len(expanded["Resources"])
        print(f"{template_file.name}: {size} resources, {len(RULES)} rules and cfn-lint: no problem")
    return problems


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    defaults = [PROJECT / "template.yaml", PROJECT / ".tools" / "template.expanded.json"]
    found = main(*given, *defaults[len(given) :])
    print(*found, sep="\n", file=sys.stderr, end="\n" if found else "")
    sys.exit(1 if found else 0)
