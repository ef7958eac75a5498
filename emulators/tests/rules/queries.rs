//! Which query options a GET supports: filters, order, pages and limits.

use serde_json::json;

use super::valid_client::{ValidClient, error};

/// Starts an emulator with three contacts: Ada Lark, Bea O'Wren and Cy.
pub(crate) async fn contacts() -> ValidClient {
    let client = ValidClient::new().await;
    let dataverse = client.emulators.dataverse();
    let account = dataverse
        .insert("account", json!({"name": "Kite Works"}))
        .unwrap();
    for row in [
        json!({"firstname": "Ada", "lastname": "Lark", "emailaddress1": "Ada@Example.com", "numberofchildren": 2,
               "parentcustomerid": {"table": "account", "id": account}, "donotemail": true}),
        json!({"firstname": "Bea", "lastname": "O'Wren", "emailaddress1": "bea_wren@example.com", "numberofchildren": 1,
               "createdon": "2020-01-01T00:00:00Z"}),
        json!({"lastname": "Cy", "emailaddress2": "cy+kites@example.com", "statecode": 1}),
    ] {
        dataverse.insert("contact", row).unwrap();
    }
    client
}

fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
        encoded
    })
}

/// Returns the last names of the contacts that match a filter.
async fn found(client: &ValidClient, filter: &str) -> Vec<String> {
    let answer = client
        .get(&format!(
            "contacts?$select=lastname&$filter={}",
            encode(filter)
        ))
        .await;
    assert_eq!(answer.status, 200, "{filter}: {}", answer.body);
    let rows = answer.json()["value"].as_array().unwrap().clone();
    rows.iter()
        .map(|row| row["lastname"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn filters_return_the_matching_rows() {
    let client = contacts().await;
    let account = client.emulators.dataverse().rows("account")[0]["accountid"]
        .as_str()
        .unwrap()
        .to_owned();
    for (filter, expected) in [
        ("lastname eq 'LARK'", vec!["Lark"]),
        ("lastname eq 'o''wren'", vec!["O'Wren"]),
        ("emailaddress1 eq 'ada@example.com'", vec!["Lark"]),
        ("emailaddress2 eq 'cy+kites@example.com'", vec!["Cy"]),
        ("lastname ne 'Lark'", vec!["O'Wren", "Cy"]),
        ("emailaddress1 eq null", vec!["Cy"]),
        ("emailaddress1 ne null", vec!["Lark", "O'Wren"]),
        ("emailaddress1 ne 'ada@example.com'", vec!["O'Wren", "Cy"]),
        (
            "not (lastname eq 'Lark' or lastname eq 'Cy')",
            vec!["O'Wren"],
        ),
        (
            "lastname eq 'Lark' or lastname eq 'Cy' and firstname eq 'none'",
            vec!["Lark"],
        ),
        ("numberofchildren gt 1", vec!["Lark"]),
        ("numberofchildren le 1", vec!["O'Wren"]),
        ("donotemail eq true", vec!["Lark"]),
        ("statecode eq 0", vec!["Lark", "O'Wren"]),
        ("createdon lt 2021-01-01", vec!["O'Wren"]),
        (
            "createdon lt 2021-01-01T00:00:00Z and createdon ge 2020-01-01T00:00:00Z",
            vec!["O'Wren"],
        ),
        ("contains(emailaddress1,'EXAMPLE')", vec!["Lark", "O'Wren"]),
        ("startswith(emailaddress1,'bea_')", vec!["O'Wren"]),
        ("startswith(emailaddress1,'a_a')", vec!["Lark"]),
        ("contains(emailaddress1,'a%com')", vec!["Lark", "O'Wren"]),
        ("endswith(emailaddress1,'wren@example.com')", vec!["O'Wren"]),
        ("not contains(lastname,'r')", vec!["Cy"]),
        (
            "Microsoft.Dynamics.CRM.In(PropertyName='lastname',PropertyValues=[\"lark\",\"cy\"])",
            vec!["Lark", "Cy"],
        ),
        (
            "Microsoft.Dynamics.CRM.In(PropertyName='statecode',PropertyValues=[\"1\"])",
            vec!["Cy"],
        ),
    ] {
        assert_eq!(found(&client, filter).await, expected, "{filter}");
    }
    assert_eq!(
        found(&client, &format!("_parentcustomerid_value eq {account}")).await,
        ["Lark"]
    );
    assert_eq!(
        found(
            &client,
            &format!("_parentcustomerid_value eq {}", account.to_uppercase())
        )
        .await,
        ["Lark"]
    );
}

#[tokio::test]
async fn the_in_function_accepts_parameter_aliases() {
    let client = contacts().await;
    let query = format!(
        "contacts?$filter=Microsoft.Dynamics.CRM.In(PropertyName=@p1,PropertyValues=@p2)&@p1={}&@p2={}",
        encode("'emailaddress1'"),
        encode(r#"["ADA@example.com","none@example.com"]"#)
    );
    assert_eq!(
        client.get(&query).await.json()["value"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn invalid_queries_are_rejected() {
    let client = contacts().await;
    for query in [
        "$filter=nosuch%20eq%201",
        "$filter=LastName%20eq%20%27x%27",
        "$filter=parentcustomerid%20eq%20null",
        "$filter=lastname%20eq%205",
        "$filter=statecode%20eq%20%270%27",
        "$filter=contactid%20eq%20%2700000000-0000-4000-8000-000000000001%27",
        "$filter=createdon%20gt%20%27x%27",
        "$filter=contains(statecode,%271%27)",
        "$filter=lastname%20eq%20%27x",
        "$filter=toupper(lastname)%20eq%20%27X%27",
        "$filter=%ff",
        "$select=nosuch",
        "$select=parentcustomerid",
        "$orderby=nosuch",
        "$expand=nosuch",
        "$skip=1",
        "$skiptoken=nonsense",
        "$nosuch=1",
    ] {
        assert_eq!(
            client.get(&format!("contacts?{query}")).await.error(),
            error(400, "0x80060888"),
            "{query}"
        );
    }
    let path = client
        .get("contacts?$filter=parentcustomerid_account/name%20eq%20%27x%27")
        .await;
    assert_eq!(path.error(), error(501, "twin"));
}

#[tokio::test]
async fn the_body_of_an_email_cannot_be_filtered_or_sorted_by() {
    let client = ValidClient::new().await;
    for query in [
        "$filter=contains(description,%27x%27)",
        "$filter=description%20ne%20null",
        "$orderby=description",
    ] {
        assert_eq!(
            client.get(&format!("emails?{query}")).await.error(),
            error(400, "0x80060888"),
            "{query}"
        );
    }
    assert_eq!(client.get("emails?$select=description").await.status, 200);
    assert_eq!(
        client
            .get("contacts?$filter=description%20eq%20null")
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn rows_are_sorted_by_orderby() {
    let client = contacts().await;
    for (order, expected) in [
        ("lastname", ["Cy", "Lark", "O'Wren"]),
        ("lastname%20desc", ["O'Wren", "Lark", "Cy"]),
        ("numberofchildren%20asc,lastname", ["Cy", "O'Wren", "Lark"]),
    ] {
        let rows = client
            .get(&format!("contacts?$select=lastname&$orderby={order}"))
            .await
            .json();
        let names: Vec<&str> = rows["value"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["lastname"].as_str().unwrap())
            .collect();
        assert_eq!(names, expected, "{order}");
    }
}

#[tokio::test]
async fn next_links_lead_through_all_pages() {
    let client = contacts().await;
    let page = |url: String| {
        let request = client.http.get(url).bearer_auth(&client.token);
        let request = request
            .header("OData-Version", "4.0")
            .header("OData-MaxVersion", "4.0");
        client.send(request.header("Prefer", "odata.maxpagesize=2"))
    };
    let base = client.emulators.dataverse().url();
    let query = "$select=lastname&$orderby=lastname&$count=true&$filter=contains(lastname,%27r%27)%20or%20true%20eq%20true";
    assert_eq!(
        page(format!("{base}/api/data/v9.2/contacts?{query}"))
            .await
            .status,
        400,
        "a filter may compare columns only"
    );
    let query =
        "$select=lastname&$orderby=lastname&$count=true&$filter=lastname%20ne%20%27a%26b%27";
    let first = page(format!("{base}/api/data/v9.2/contacts?{query}")).await;
    assert_eq!(first.header("preference-applied"), "odata.maxpagesize=2");
    let first = first.json();
    assert_eq!(
        (
            first["value"].as_array().unwrap().len(),
            first["@odata.count"].clone()
        ),
        (2, json!(3))
    );
    let second = page(first["@odata.nextLink"].as_str().unwrap().to_owned())
        .await
        .json();
    assert_eq!(second["value"][0]["lastname"], "O'Wren");
    assert!(second.get("@odata.nextLink").is_none());
}

#[tokio::test]
async fn top_limits_the_rows_and_count_returns_their_number() {
    let client = contacts().await;
    let body = client.get("contacts?$top=2").await.json();
    assert_eq!(body["value"].as_array().unwrap().len(), 2);
    assert!(
        body.get("@odata.nextLink").is_none(),
        "`$top` does not paginate"
    );
    assert_eq!(client.get("contacts/$count").await.body, "3");
    assert_eq!(
        client
            .get("contacts/$count?$filter=statecode%20eq%201")
            .await
            .body,
        "1"
    );
}

#[tokio::test]
async fn a_page_holds_at_most_5000_rows() {
    let client = ValidClient::new().await;
    for number in 0..5_001 {
        client
            .emulators
            .dataverse()
            .insert("account", json!({"name": number.to_string()}))
            .unwrap();
    }
    let body = client.get("accounts?$select=name&$count=true").await.json();
    assert_eq!(body["value"].as_array().unwrap().len(), 5_000);
    assert_eq!(
        body["@odata.count"], 5_000,
        "the count is capped at 5,000 too"
    );
    assert!(body["@odata.nextLink"].is_string());
}

#[tokio::test]
async fn deeply_nested_queries_and_bodies_get_a_response() {
    let client = ValidClient::new().await;
    let deep = |open: &str, close: &str| format!("{}x{}", open.repeat(2_000), close.repeat(2_000));
    assert_eq!(
        client
            .get(&format!("emails?$expand={}", deep("a($expand=", ")")))
            .await
            .status,
        501
    );
    assert_eq!(
        client
            .get(&format!("emails?$filter={}", deep("(", ")")))
            .await
            .status,
        400
    );
    assert_eq!(
        client
            .get(&format!("emails?$filter={}", deep("not%20", "")))
            .await
            .status,
        400
    );
    let nested = format!("{}1{}", "[".repeat(2_000), "]".repeat(2_000));
    let request = client
        .request(reqwest::Method::POST, "emails")
        .header("Content-Type", "application/json");
    assert_eq!(
        client.send(request.body(nested)).await.error(),
        error(400, "0x80048d19")
    );
}

#[tokio::test]
async fn unknown_names_are_rejected_even_in_an_empty_table() {
    let client = ValidClient::new().await;
    for query in [
        "$select=nosuch",
        "$expand=nosuch",
        "$expand=email_activity_parties($select=nosuch)",
        "$expand=email_activity_parties($filter=nosuch%20eq%201)",
        "$expand=regardingobjectid_contact_email($select=nosuch)",
        "$filter=nosuch%20eq%201",
        "$orderby=nosuch",
    ] {
        assert_eq!(
            client.get(&format!("emails?{query}")).await.error(),
            error(400, "0x80060888"),
            "{query}"
        );
    }
}
