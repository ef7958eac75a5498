"""Each rule of check_template.py finds the fault it is there for, planted into the real template."""

import copy
import json
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import check_template
from samtranslator.yaml_helper import yaml_parse

TEMPLATE = yaml_parse((check_template.PROJECT / "template.yaml").read_text(encoding="utf-8"))


def problems_with(plant):
    """What the rules say once `plant` has changed the resources of the template."""
    template = copy.deepcopy(TEMPLATE)
    plant(template["Resources"])
    return check_template.broken_rules(check_template.expand(template))


def variables(resources, function):
    return resources[function]["Properties"]["Environment"]["Variables"]


def first_statements(resources, role):
    return resources[role]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]


class PlantedFaults(unittest.TestCase):
    def assert_found(self, expected, plant):
        problems = problems_with(plant)
        self.assertTrue(any(expected in problem for problem in problems), f"{expected!r} not in {problems}")

    def set(self, resource, prop, value):
        return lambda resources: resources[resource]["Properties"].__setitem__(prop, value)

    def test_the_template_as_it_is_has_no_problem(self):
        self.assertEqual(problems_with(lambda resources: None), [])

    def test_a_binary_of_another_name(self):
        def plant(resources):
            resources["Backfill"]["Metadata"]["BuildProperties"]["Binary"] = "sync-worker"

        self.assert_found("Binary differs", plant)

    def test_another_build_method(self):
        def plant(resources):
            resources["Backfill"]["Metadata"]["BuildMethod"] = "makefile"

        self.assert_found("BuildMethod", plant)

    def test_a_function_that_nobody_knows(self):
        self.assert_found("new-one: a function here", self.set("Backfill", "CodeUri", "functions/new-one"))

    def test_a_folder_without_a_crate(self):
        with mock.patch.object(check_template, "PROJECT", Path("/nowhere")):
            self.assert_found("holds no crate", lambda resources: None)

    def test_schedule_grammar(self):
        def schedule(expression):
            return lambda r: r["Backfill"]["Properties"]["Events"]["Schedule"]["Properties"].__setitem__(
                "ScheduleExpression", expression
            )

        for wrong in ("rate(15 minute)", "rate(1 minutes)", "rate(0 minutes)", "15 minutes", "cron(0 * * *)"):
            self.assert_found("EventBridge will refuse", schedule(wrong))
        for right in ("rate(1 minute)", "rate(2 hours)", "cron(0/15 * * * ? *)"):
            self.assertEqual(problems_with(schedule(right)), [])

    def test_a_worker_that_outlives_its_lease(self):
        self.assert_found("Timeout 180 < lease", self.set("SyncWorker", "Timeout", 180))

    def test_a_backfill_that_outlives_the_mailbox_it_keeps(self):
        self.assert_found("backfill: not true that Timeout 900 < lease", self.set("Backfill", "Timeout", 900))
        self.assert_found("VisibilityTimeout 900", self.set("BackfillQueue", "VisibilityTimeout", 900))

    def test_a_url_that_anybody_may_call(self):
        def plant(resources):
            resources["BackfillUrl"]["Properties"]["AuthType"] = "NONE"

        self.assert_found("anybody may call it", plant)

    def test_two_tasks_in_one_batch(self):
        def plant(resources):
            resources["Backfill"]["Properties"]["Events"]["BackfillQueue"]["Properties"]["BatchSize"] = 2

        self.assert_found("BatchSize is 2", plant)

    def test_a_task_that_is_given_up_too_early(self):
        def plant(resources):
            resources["BackfillQueue"]["Properties"]["RedrivePolicy"]["maxReceiveCount"] = 5

        self.assert_found("BackfillQueue: maxReceiveCount is 5", plant)

    def test_a_redelivery_before_the_lease_ends(self):
        self.assert_found("VisibilityTimeout 180", self.set("SyncQueue", "VisibilityTimeout", 180))

    def test_a_receiver_slower_than_nylas(self):
        self.assert_found("Nylas waits", self.set("WebhookReceiver", "Timeout", 10))

    def test_a_receiver_without_a_share_of_its_own(self):
        for value in (None, 0, 20, {"Ref": "ReceiverConcurrency"}):
            plant = self.set("WebhookReceiver", "ReservedConcurrentExecutions", value)
            self.assert_found("with 0 for none", plant)

    def test_a_batch_that_fails_as_one(self):
        def plant(resources):
            del resources["SyncWorker"]["Properties"]["Events"]["SyncQueue"]["Properties"]["FunctionResponseTypes"]

        self.assert_found("ReportBatchItemFailures", plant)

    def test_mailboxes_that_nobody_has_named(self):
        for function, name in (("SyncWorker", "sync-worker"), ("Backfill", "backfill")):
            self.assert_found(f"{name}: lacks MAILBOXES", lambda r: variables(r, function).pop("MAILBOXES"))
        template = copy.deepcopy(TEMPLATE)
        template["Parameters"]["Mailboxes"]["Default"] = "all"
        problems = check_template.broken_rules(check_template.expand(template))
        self.assertEqual(len(problems), 1)
        self.assertIn("Mailboxes: is no parameter, or has a default", problems[0])

    def test_a_setting_that_is_missing(self):
        self.assert_found("sync-worker: lacks LEDGER_TABLE", lambda r: variables(r, "SyncWorker").pop("LEDGER_TABLE"))

    def test_a_setting_for_the_wrong_function(self):
        def plant(resources):
            variables(resources, "SyncWorker")["ENTRA_SECRET_ID"] = {"Ref": "EntraCredential"}

        self.assert_found("sync-worker: has ENTRA_SECRET_ID", plant)

    def test_a_setting_that_nobody_knows(self):
        self.assert_found("has LEASE_SECONDS", lambda r: variables(r, "SyncWorker").update(LEASE_SECONDS="180"))

    def test_a_setting_with_two_values(self):
        def plant(resources):
            variables(resources, "WebhookReceiver")["SYNC_QUEUE_URL"] = {"Ref": "BackfillQueue"}

        self.assert_found("SYNC_QUEUE_URL: differs", plant)

    def test_a_setting_that_names_the_wrong_kind(self):
        def plant(resources):
            variables(resources, "WebhookReceiver")["WEBHOOK_SECRET_ID"] = {"Ref": "SyncQueue"}

        self.assert_found("names no AWS::SecretsManager::Secret", plant)

    def test_a_wildcard_resource(self):
        def plant(resources):
            first_statements(resources, "SyncWorkerRole")[0]["Resource"] = "*"

        self.assert_found('Resource "*" has a wildcard', plant)

    def test_a_wildcard_inside_an_arn(self):
        def plant(resources):
            first_statements(resources, "SyncWorkerRole")[0]["Resource"] = {"Fn::Sub": "${SyncQueue.Arn}*"}

        self.assert_found("has a wildcard", plant)

    def test_a_wildcard_action(self):
        def plant(resources):
            first_statements(resources, "SyncWorkerRole")[1]["Action"] = ["dynamodb:*"]

        self.assert_found('Action "dynamodb:*" has a wildcard', plant)

    def test_everything_but(self):
        def plant(resources):
            first_statements(resources, "SyncWorkerRole")[0]["NotResource"] = {"Ref": "EntraCredential"}

        self.assert_found("NotResource allows everything else", plant)

    def test_a_role_made_by_sam(self):
        # It comes with AWS's own policies, which cover every queue and log group of the account.
        def plant(resources):
            del resources["SyncWorkerRole"], resources["SyncWorker"]["Properties"]["Role"]

        self.assert_found("allows what this template does not say", plant)

    def test_a_secret_that_a_function_may_not_read(self):
        self.assert_found("has to", lambda r: first_statements(r, "SyncWorkerRole")[2].update(Resource=[]))

    def test_a_secret_that_is_none_of_its_business(self):
        def plant(resources):
            first_statements(resources, "SyncWorkerRole")[2]["Resource"].append({"Ref": "EntraCredential"})

        self.assert_found("sync-worker: may secretsmanager:GetSecretValue EntraCredential", plant)

    def test_a_second_writer_of_the_token(self):
        def plant(resources):
            first_statements(resources, "BackfillRole")[-1]["Action"] = [
                "secretsmanager:GetSecretValue",
                "secretsmanager:PutSecretValue",
            ]

        self.assert_found("backfill: may secretsmanager:PutSecretValue DataverseToken", plant)

    def test_a_call_that_the_policy_forgot(self):
        def plant(resources):
            first_statements(resources, "SyncWorkerRole")[0]["Action"].remove("sqs:ChangeMessageVisibility")

        self.assert_found("sync-worker: may not sqs:ChangeMessageVisibility SyncQueue", plant)

    def test_a_function_that_may_not_log(self):
        self.assert_found("backfill: may not logs:", lambda r: r["LogPolicy"]["Properties"]["Roles"].pop(2))

    def test_a_failed_run_that_may_not_be_reported(self):
        def plant(resources):
            first_statements(resources, "TokenRefresherRole").pop(2)

        self.assert_found("token-refresher: may not sqs:SendMessage MissedRuns", plant)

    def test_a_failed_run_that_nobody_hears_of(self):
        def plant(resources):
            config = resources["Backfill"]["Properties"]["EventInvokeConfig"]
            config["DestinationConfigs"] = config.pop("DestinationConfig")

        self.assert_found("Backfill: a run that fails raises no alarm", plant)

    def test_a_run_that_cannot_start(self):
        def plant(resources):
            del resources["Backfill"]["Properties"]["Events"]["Schedule"]["Properties"]["DeadLetterConfig"]

        self.assert_found("a run that cannot start raises no alarm", plant)

    def test_a_ledger_of_another_shape(self):
        keys = [{"AttributeName": "id", "KeyType": "HASH"}]
        self.assert_found("not pk and sk", self.set("Ledger", "KeySchema", keys))
        numbers = [{"AttributeName": name, "AttributeType": "N"} for name in ("pk", "sk")]
        self.assert_found("have the types", self.set("Ledger", "AttributeDefinitions", numbers))
        self.assert_found("index `attention`", lambda r: r["Ledger"]["Properties"].pop("GlobalSecondaryIndexes"))
        keys_only = {"ProjectionType": "KEYS_ONLY"}
        index = lambda r: r["Ledger"]["Properties"]["GlobalSecondaryIndexes"][0].update(Projection=keys_only)
        self.assert_found("index `attention`", index)
        self.assert_found("index `activity`", lambda r: r["Ledger"]["Properties"]["GlobalSecondaryIndexes"].pop())
        everything = {"ProjectionType": "ALL"}
        index = lambda r: r["Ledger"]["Properties"]["GlobalSecondaryIndexes"][1].update(Projection=everything)
        self.assert_found("index `activity`", index)
        another = {"IndexName": "reason", "KeySchema": [{"AttributeName": "reason", "KeyType": "HASH"}]}
        index = lambda r: r["Ledger"]["Properties"]["GlobalSecondaryIndexes"].append(another)
        self.assert_found("nobody reads the index `reason`", index)
        expiry = {"AttributeName": "expires", "Enabled": True}
        self.assert_found("do not expire", self.set("Ledger", "TimeToLiveSpecification", expiry))

    def test_a_ledger_that_can_be_lost(self):
        self.assert_found("goes when the stack goes", lambda r: r["Ledger"].pop("DeletionPolicy"))
        self.assert_found("no recovery", lambda r: r["Ledger"]["Properties"].pop("PointInTimeRecoverySpecification"))

    def test_a_function_that_may_write_the_policy(self):
        def update(resources, role):
            statements = first_statements(resources, role)
            return next(s for s in statements if s["Action"] == "dynamodb:UpdateItem")

        def keys(role, *patterns):
            condition = {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": list(patterns)}}
            return lambda resources: update(resources, role).update(Condition=condition)

        for role in ("SyncWorkerRole", "BackfillRole"):
            self.assert_found("it may write the policy", lambda r: update(r, role).pop("Condition"))
            self.assert_found("'p*' lets it write the policy", keys(role, "mailbox#*", "run#*", "p*"))
        another = {"StringNotLike": {"dynamodb:LeadingKeys": ["policy"]}}
        self.assert_found("it may write the policy", lambda r: update(r, "BackfillRole").update(Condition=another))
        self.assert_found("backfill: may not write the items of run#", keys("BackfillRole", "mailbox#*", "rate_limit"))
        self.assert_found("sync-worker: may not write the items of mailbox#", keys("SyncWorkerRole", "mailbox#", "rate_limit"))
        self.assert_found(
            "sync-worker: may write the items of run#*", keys("SyncWorkerRole", "mailbox#*", "run#*", "rate_limit")
        )

    def test_a_named_ledger_that_is_not_used_everywhere(self):
        own = {"Fn::GetAtt": ["Ledger", "Arn"]}
        self.assert_found(
            "sync-worker: LEDGER_TABLE stays with",
            lambda r: variables(r, "SyncWorker").update(LEDGER_TABLE={"Ref": "Ledger"}),
        )
        self.assert_found(
            "SyncWorkerRole: Resource stays with",
            lambda r: first_statements(r, "SyncWorkerRole")[1].update(Resource=own),
        )

    def test_a_resource_that_is_not_under_the_own_key(self):
        for resource, prop in [
            ("SyncQueue", "KmsMasterKeyId"),
            ("BackfillDeadLetters", "KmsMasterKeyId"),
            ("Ledger", "SSESpecification"),
            ("EntraCredential", "KmsKeyId"),
            ("Logs", "KmsKeyId"),
        ]:
            self.assert_found(f"{resource}: is not under the key", lambda r: r[resource]["Properties"].pop(prop))
        key = {"Ref": "KmsKeyArn"}
        self.assert_found("Scheduler could not send", self.set("MissedRuns", "KmsMasterKeyId", key))
        self.assert_found("sync-worker: may not kms:Decrypt", lambda r: r["KeyPolicy"]["Properties"]["Roles"].pop(1))

    def test_an_alarm_for_another_stack(self):
        self.assert_found("the dimension `Stack` is missing", lambda r: r["DeadMailAlarm"]["Properties"].pop("Dimensions"))
        self.assert_found("nobody counts Deaf", self.set("DeadMailAlarm", "MetricName", "Deaf"))
        self.assert_found(
            "backfill: STACK_NAME is not", lambda r: variables(r, "Backfill").update(STACK_NAME="mailverse")
        )

    def test_a_queue_that_gives_up_before_the_code(self):
        def plant(resources):
            resources["SyncQueue"]["Properties"]["RedrivePolicy"]["maxReceiveCount"] = 9

        self.assert_found("maxReceiveCount is 9", plant)

    def test_a_queue_that_forgets_before_the_last_delivery(self):
        self.assert_found("before its last delivery", self.set("SyncQueue", "MessageRetentionPeriod", 345_600))

    def test_a_constant_that_moved(self):
        self.assertRaises(SystemExit, check_template.constant, "shared/src/ledger.rs", "const NO_SUCH_THING =")

    def test_a_queue_without_dead_letters(self):
        def plant(resources):
            del resources["SyncQueue"]["Properties"]["RedrivePolicy"]

        self.assert_found("has no dead-letter queue", plant)

    def test_dead_letters_without_an_alarm(self):
        self.assert_found("SyncDeadLetters: neither", lambda resources: resources.pop("SyncDeadLettersAlarm"))

    def test_dead_letters_that_vanish_early(self):
        self.assert_found("vanish early", self.set("SyncDeadLetters", "MessageRetentionPeriod", 604_800))


class Linting(unittest.TestCase):
    def test_cfn_lint_sees_inside_the_functions(self):
        template = copy.deepcopy(TEMPLATE)
        template["Resources"]["SyncWorker"]["Properties"]["Runtime"] = "provided.al2024"
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "expanded.json")
            file.write_text(json.dumps(check_template.expand(template)), encoding="utf-8")
            self.assertIn("provided.al2024", check_template.lint(file) or "")


if __name__ == "__main__":
    unittest.main()
