//! Tests what `mailverse doctor` finds broken in Dynamics 365, and what it checks there because the
//! policy or the settings need it.

use std::time::Duration;

use emulators::{Privilege, Setting};
use mailverse::policy::Policy;
use serde_json::{Value, json};

use super::{Installed, assert_broken, assert_healthy};
use crate::end_to_end::command::run;
use crate::test_organisation::status;
use crate::tripwire::Tripwire;

#[tokio::test]
async fn doctor_reports_a_missing_privilege_in_one_line_with_its_name() {
    let installed = Installed::new().await;
    let dataverse = installed.cloud.emulators.dataverse().clone();
    for (privilege, table, name, right) in [
        (
            Privilege::Read,
            "activity",
            "read emails",
            "Read on Activity",
        ),
        (
            Privilege::Read,
            "contact",
            "read contacts",
            "Read on Contact",
        ),
        (
            Privilege::Read,
            "account",
            "read accounts",
            "Read on Account",
        ),
        (Privilege::Read, "lead", "", ""),
        (Privilege::Read, "queue", "", ""),
        (Privilege::Read, "systemuser", "read users", "Read on User"),
        (
            Privilege::Create,
            "activity",
            "create emails",
            "Create on Activity",
        ),
        (
            Privilege::Write,
            "activity",
            "three steps in one change set",
            "Write and Append on Activity",
        ),
        (
            Privilege::Delete,
            "activity",
            "delete emails",
            "Delete on Activity",
        ),
        (
            Privilege::AppendTo,
            "contact",
            "append to contacts",
            "Append To on Contact",
        ),
        (
            Privilege::AppendTo,
            "account",
            "append to accounts",
            "Append To on Account",
        ),
        (
            Privilege::AppendTo,
            "lead",
            "append to leads",
            "Append To on Lead",
        ),
        (
            Privilege::AppendTo,
            "systemuser",
            "append to users",
            "Append To on User",
        ),
        (
            Privilege::Assign,
            "activity",
            "assign emails",
            "Assign on Activity",
        ),
    ] {
        installed.withhold(&[(privilege, table)]);
        let seen = installed.doctor(&[]).await;
        let case = format!("{privilege:?} on {table}");
        if name.is_empty() {
            assert_eq!(seen.status, Some(0), "{case}: {}", seen.out);
            assert!(
                seen.out.contains("optional, not readable"),
                "{case}: {}",
                seen.out
            );
        } else {
            assert_broken(&case, &seen, name, "0x80040220", right);
        }
        assert_eq!(dataverse.rows("email"), [] as [Value; 0], "{case}");
    }
    installed.withhold(&[]);
    assert_healthy(&installed.doctor(&[]).await);
}

#[tokio::test]
async fn doctor_reports_other_dynamics_problems_in_one_line_with_their_remedy() {
    let installed = Installed::new().await;
    let dataverse = installed.cloud.emulators.dataverse().clone();
    dataverse.set_max_length("email", "subject", 200).unwrap();
    let seen = installed.doctor(&[]).await;
    assert_healthy(&seen);
    let cut = "email.subject holds 200, not 800: longer texts are cut to that";
    assert!(seen.out.contains(cut), "{}", seen.out);
    dataverse.set_max_length("email", "subject", 800).unwrap();
    installed.withhold(&[(Privilege::Read, "attribute")]);
    let seen = installed.doctor(&[]).await;
    assert_broken(
        "column definitions that cannot be read",
        &seen,
        "column lengths",
        "0x80040220",
        "Read on Entity and Attribute",
    );
    installed.withhold(&[]);
    dataverse.set_setting(Setting::MaxUploadFileSize(1_000_000));
    let seen = installed.doctor(&[]).await;
    assert_healthy(&seen);
    assert!(seen.out.contains("1000000 bytes of base64"), "{}", seen.out);
    assert_eq!(dataverse.rows("email"), [] as [Value; 0]);

    installed.store_token(-60).await;
    let seen = installed.doctor(&[]).await;
    assert_broken(
        "an expired token",
        &seen,
        "dataverse token",
        "expired 1 min ago",
        "mailverse token refresh",
    );
    let foreign = json!({"access_token": "canary-token", "expires_at": chrono::Utc::now().timestamp() + 3_600});
    installed.cloud.store("token", &foreign.to_string()).await;
    let seen = installed.doctor(&[]).await;
    assert_broken(
        "a rejected token",
        &seen,
        "dataverse user",
        "refused the token",
        "DATAVERSE_URL",
    );
    installed.store_token(3_600).await;
    dataverse.remove_application_user();
    let seen = installed.doctor(&[]).await;
    assert_broken(
        "no user",
        &seen,
        "dataverse user",
        "0x80072560",
        "application user with a security role",
    );
}

#[tokio::test]
async fn the_write_probe_reports_the_working_write_mode_and_leaves_no_row() {
    let installed = Installed::new().await;
    let dataverse = installed.cloud.emulators.dataverse().clone();
    let seen = installed.doctor(&["--probe-write"]).await;
    println!("{}", seen.out);
    assert_healthy(&seen);
    for part in [
        "changeset: all three steps work",
        "CREATED_ON can be original",
        "completed, then deleted",
    ] {
        assert!(seen.out.contains(part), "{part}: {}", seen.out);
    }
    assert_eq!(dataverse.rows("email"), [] as [Value; 0]);
    assert_eq!(dataverse.dropped(), []);

    dataverse.set_setting(Setting::MayOverrideCreatedOn(false));
    let seen = installed.doctor(&["--probe-write"]).await;
    assert_healthy(&seen);
    assert!(
        seen.out.contains("prvOverrideCreatedOnCreatedBy"),
        "{}",
        seen.out
    );
    dataverse.set_setting(Setting::MayOverrideCreatedOn(true));

    // An organisation that rejects the last step inside a change set, but accepts it as a separate
    // request.
    let line = Tripwire::before(&dataverse.url()).await;
    let mut settings = installed.settings.clone();
    settings.push(("DATAVERSE_URL", line.url().to_owned()));
    let refuse = || {
        for _ in 0..2 {
            let dataverse = dataverse.clone();
            line.at("Written by mailverse doctor", async move {
                dataverse.fail_operation(2, status(400, "0x80048408"));
            });
        }
    };
    refuse();
    let seen = run(&["doctor", "--probe-write"], &settings).await;
    assert_broken("stepwise", &seen, "write mode", "one by one", "stepwise");
    settings.push(("WRITE_MODE", "stepwise".to_owned()));
    refuse();
    let seen = run(&["doctor", "--probe-write"], &settings).await;
    assert_healthy(&seen);
    assert!(seen.out.contains("only one by one"), "{}", seen.out);
    let seen = run(&["doctor", "--probe-write"], &settings).await;
    assert!(
        seen.out.contains("changeset works here too"),
        "{}",
        seen.out
    );
    assert_eq!(dataverse.rows("email"), [] as [Value; 0]);
}

#[tokio::test]
async fn doctor_reports_a_clock_that_is_ten_minutes_off_as_the_only_problem() {
    const TEN_MINUTES: Duration = Duration::from_secs(600);
    let installed = Installed::new().await;
    let clock = installed.cloud.emulators.clock().clone();
    let remedy = "this machine's clock";
    clock.advance(TEN_MINUTES);
    // By the local clock the token expires in 15 minutes.
    installed.store_token(900).await;
    let seen = installed.doctor(&[]).await;
    assert_broken("late", &seen, "clock", "s behind Dataverse", remedy);
    let left = |minutes: [&str; 2]| minutes.iter().any(|it| seen.out.contains(it));
    assert!(
        left(["expires in 4 min", "expires in 5 min"]),
        "{}",
        seen.out
    );
    clock.put_back(2 * TEN_MINUTES);
    // By the local clock the token expired a minute ago.
    installed.store_token(-60).await;
    let seen = installed.doctor(&[]).await;
    assert_broken("early", &seen, "clock", "s ahead of Dataverse", remedy);
    clock.advance(TEN_MINUTES);
    installed.store_token(3_600).await;
    assert_healthy(&installed.doctor(&[]).await);
}

#[tokio::test]
async fn doctor_checks_the_privileges_that_the_policy_needs() {
    let installed = Installed::new().await;
    let dataverse = installed.cloud.emulators.dataverse().clone();
    let user = json!({"lastname": "Eve", "isdisabled": false, "azureactivedirectoryobjectid": "00000000-0000-4000-8000-00000000000e"});
    dataverse.insert("systemuser", user).unwrap();
    dataverse
        .insert("opportunity", json!({"name": "Kites"}))
        .unwrap();
    let document = r#"{"defaults": {"create_contacts": "all", "impersonate": "owner", "regarding": {"app": "sales"}}}"#;
    assert!(Policy::parse(document).is_ok());
    let before = dataverse.export();
    installed.push(document).await;
    let seen = installed.doctor(&[]).await;
    assert_healthy(&seen);
    for name in [
        "act for users",
        "create contacts",
        "create accounts",
        "append to opportunities",
    ] {
        assert!(seen.out.contains(name), "{name}: {}", seen.out);
    }
    assert_eq!(dataverse.export(), before);
    let withheld = |privilege, table| Setting::Withheld(vec![(privilege, table)]);
    let of_users = Setting::WithheldFromUsers(vec![(Privilege::Create, "activity")]);
    for (setting, name, remedy) in [
        (
            withheld(Privilege::ActOnBehalf, "systemuser"),
            "act for users",
            "prvActOnBehalfOfAnotherUser",
        ),
        (of_users, "act for users", "that user's role"),
        (
            withheld(Privilege::Create, "contact"),
            "create contacts",
            "Create and Append on Contact",
        ),
        (
            withheld(Privilege::Create, "account"),
            "create accounts",
            "Create on Account",
        ),
        (
            withheld(Privilege::Read, "opportunity"),
            "read opportunities",
            "Read on Opportunity",
        ),
        (
            withheld(Privilege::AppendTo, "opportunity"),
            "append to opportunities",
            "Append To on Opportunity",
        ),
    ] {
        let case = format!("{setting:?}");
        dataverse.set_setting(setting);
        let seen = installed.doctor(&[]).await;
        assert_broken(&case, &seen, name, "0x80040220", remedy);
        assert_eq!(dataverse.export()["tables"], before["tables"], "{case}");
        installed.withhold(&[]);
        dataverse.set_setting(Setting::WithheldFromUsers(Vec::new()));
    }
    assert_healthy(&installed.doctor(&[]).await);
}

#[tokio::test]
async fn doctor_checks_the_privileges_that_the_settings_need() {
    let mut installed = Installed::new().await;
    let dataverse = installed.cloud.emulators.dataverse().clone();
    let original = ("CREATED_ON", Some("original"));
    let seen = installed.doctor_with(original.0, original.1).await;
    assert_healthy(&seen);
    dataverse.set_setting(Setting::MayOverrideCreatedOn(false));
    let seen = installed.doctor_with(original.0, original.1).await;
    let right = "prvOverrideCreatedOnCreatedBy";
    assert_broken(
        "created-on",
        &seen,
        "override created-on",
        "0x80040220",
        right,
    );
    assert_healthy(&installed.doctor(&[]).await);
}
