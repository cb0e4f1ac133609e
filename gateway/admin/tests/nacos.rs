//! Nacos' API, spoken by the embedded registry.

use super::*;

fn nacos(token: Option<&str>, read_token: Option<&str>, from: &[&str]) -> Access {
    let from = from.iter().map(|network| network.parse().unwrap()).collect();
    let secret = |token: &str| Secret(token.into());
    let (token, read_token) = (token.map(secret), read_token.map(secret));
    Access { token, read_token, nacos: Some(NacosSettings { from }), ..Access::default() }
}

async fn open() -> Api {
    Api::start(Scope::Registrations, nacos(None, None, &[])).await
}

const FORM: &str = "content-type: application/x-www-form-urlencoded\r\n";
const INSTANCE: &str = "/nacos/v1/ns/instance";

impl Api {
    /// Sends pairs in the query, as most clients do.
    async fn ok(&self, method: &str, pairs: &str) {
        let answer = self.send(method, &format!("{INSTANCE}?{pairs}"), "", "").await;
        assert_eq!((answer.status, &*answer.body), (200, "ok"), "{method} {pairs}");
    }

    async fn beat(&self, pairs: &str) -> Value {
        self.send("PUT", &format!("{INSTANCE}/beat?{pairs}"), "", "").await.json()
    }

    /// The addresses that a client finds.
    async fn hosts(&self, pairs: &str) -> Vec<String> {
        let list = self.get(&format!("{INSTANCE}/list?{pairs}")).await.json();
        let hosts = list["hosts"].as_array().unwrap_or_else(|| panic!("{list}"));
        hosts.iter().map(|host| format!("{}:{}", host["ip"].as_str().unwrap(), host["port"])).collect()
    }
}

#[tokio::test]
async fn a_program_registers_beats_and_finds_others() {
    let api = open().await;
    assert_eq!(api.hosts("serviceName=orders").await, [""; 0]);
    let one = "serviceName=orders&ip=10.0.0.1&port=80";
    api.ok("POST", &format!("{one}&weight=0.5&metadata=%7B%22version%22%3A%222%22%7D")).await;
    // In the body, as others send it.
    let two =
        "serviceName=DEFAULT_GROUP%40%40orders&groupName=DEFAULT_GROUP&ip=10.0.0.2&port=80&clusterName=b";
    let answer = api.send("POST", INSTANCE, FORM, two).await;
    assert_eq!((answer.status, &*answer.body), (200, "ok"));
    // One that registered otherwise is found, too.
    api.put("/api/v1/services/orders/native", json!({ "address": "[fd00::1]:80", "state": "unwell" })).await;
    assert_eq!(api.hosts("serviceName=orders").await, ["10.0.0.1:80", "10.0.0.2:80", "fd00::1:80"]);
    assert_eq!(api.hosts("serviceName=orders&healthyOnly=true").await, ["10.0.0.1:80", "10.0.0.2:80"]);
    assert_eq!(api.hosts("serviceName=orders&clusters=a,b").await, ["10.0.0.2:80"]);

    let list = api.get(&format!("{INSTANCE}/list?serviceName=orders&namespaceId=public")).await.json();
    assert_eq!(
        (&list["name"], &list["groupName"]),
        (&json!("DEFAULT_GROUP@@orders"), &json!("DEFAULT_GROUP"))
    );
    let host = &list["hosts"][0];
    assert_eq!(host["instanceId"], "10.0.0.1#80#DEFAULT#DEFAULT_GROUP@@orders", "{host}");
    assert_eq!((&host["weight"], &host["metadata"]), (&json!(0.5), &json!({ "version": "2" })));
    assert_eq!(
        (&host["healthy"], &host["ephemeral"], &host["enabled"]),
        (&json!(true), &json!(true), &json!(true))
    );
    assert_eq!(api.get("/api/v1/services/orders/10.0.0.1:80").await.json()["weight"], 1);
    assert_eq!(api.get(&format!("{INSTANCE}?{one}")).await.json()["ip"], "10.0.0.1");

    let known = json!({ "clientBeatInterval": 5000, "code": 10200, "lightBeatEnabled": true });
    assert_eq!(api.beat(one).await, known);
    api.ok("PUT", &format!("{one}&enabled=false")).await;
    assert_eq!(api.hosts("serviceName=orders").await, ["10.0.0.2:80", "fd00::1:80"], "nobody is told of it");
    assert_eq!(api.get("/api/v1/services/orders/10.0.0.1:80").await.json()["weight"], 0);
    api.ok("DELETE", one).await;
    api.ok("DELETE", one).await;
    let unknown = json!({ "clientBeatInterval": 5000, "code": 20404, "lightBeatEnabled": true });
    assert_eq!(api.beat(one).await, unknown, "it is to register again");
    // A beat that says all registers.
    let beat = "%7B%22ip%22%3A%2210.0.0.1%22%2C%22port%22%3A80%2C%22serviceName%22%3A%22orders%22%7D";
    assert_eq!(api.beat(&format!("beat={beat}")).await, known);
    assert_eq!(api.hosts("serviceName=orders").await.len(), 3);
    let metrics = api.get("/nacos/v1/ns/operator/metrics").await.json();
    assert_eq!(metrics, json!({ "status": "UP", "serviceCount": 1, "instanceCount": 3 }));
}

#[tokio::test]
async fn groups_and_namespaces_are_services_of_their_own() {
    let api = open().await;
    let at = "serviceName=orders&ip=10.0.0.1&port=80";
    for more in ["", "&groupName=shop", "&groupName=shop&namespaceId=dev"] {
        api.ok("POST", &format!("{at}{more}")).await;
        assert_eq!(api.hosts(&format!("serviceName=orders{more}")).await, ["10.0.0.1:80"]);
    }
    let services = api.get("/api/v1/services").await.json();
    let names: Vec<_> = services["services"].as_array().unwrap().iter().map(|one| &one["service"]).collect();
    assert_eq!(names, ["dev@@shop@@orders", "orders", "shop@@orders"]);
    api.ok("POST", &at.replace("orders", "users")).await;
    let list = async |more: &str| {
        let path = format!("/nacos/v1/ns/service/list?pageNo=1&pageSize=9{more}");
        api.get(&path).await.json()
    };
    assert_eq!(list("").await, json!({ "count": 2, "doms": ["orders", "users"] }));
    assert_eq!(list("&groupName=shop").await, json!({ "count": 1, "doms": ["orders"] }));
    assert_eq!(list("&groupName=shop&namespaceId=other").await, json!({ "count": 0, "doms": [] }));
    let second = api.get("/nacos/v1/ns/service/list?pageNo=2&pageSize=1").await.json();
    assert_eq!(second, json!({ "count": 2, "doms": ["users"] }));
}

#[tokio::test]
async fn an_instance_that_does_not_beat_is_unwell_and_leaves() {
    let api = open().await;
    let own = "preserved.heart.beat.timeout=1000,preserved.ip.delete.timeout=2000,preserved.heart.beat.interval=300";
    let one = "serviceName=orders&ip=10.0.0.1&port=80";
    api.ok("POST", &format!("{one}&metadata={own}")).await;
    assert_eq!(api.beat(one).await["clientBeatInterval"], 300);
    let memory = api.parts.memory.clone();
    let unwell = memory.version(Some("orders"));
    memory.changed(Some("orders"), unwell).await;
    assert_eq!(api.hosts("serviceName=orders&healthyOnly=true").await, [""; 0]);
    assert_eq!(api.beat(one).await["code"], 10200);
    assert_eq!(api.hosts("serviceName=orders&healthyOnly=true").await.len(), 1);
    while memory.count() > 0 {
        memory.changed(Some("orders"), memory.version(Some("orders"))).await;
    }
    assert_eq!(api.beat(one).await["code"], 20404);
}

#[tokio::test]
async fn what_is_not_spoken_of_nacos_is_told_and_only_those_may_who_may() {
    for (scope, access) in
        [(Scope::Registrations, Access::default()), (Scope::Everything, nacos(None, None, &[]))]
    {
        let api = Api::start(scope, access).await;
        api.fails("GET", "/nacos/v1/ns/operator/metrics", "", "", 404, "nothing at").await;
        api.fails("POST", INSTANCE, "", "", 404, "nothing at").await;
    }
    let api = open().await;
    for (method, path) in [
        ("GET", "v1/cs/configs"),
        ("GET", "v2/ns/instance/list"),
        ("POST", "v3/client/ns/instance"),
        ("GET", "v1/ns/raft/leader"),
        ("PUT", "v1/ns/service"),
    ] {
        let why = format!("\"{path}\" of Nacos is not spoken here; there are ns/instance");
        api.fails(method, &format!("/nacos/{path}"), "", "{}", 501, &why).await;
    }
    api.fails("POST", &format!("{INSTANCE}/list"), "", "", 405, "GET, HEAD").await;
    api.fails("POST", INSTANCE, "", "", 400, "serviceName: there is none").await;
    api.fails("POST", &format!("{INSTANCE}?serviceName=a"), "", "", 400, "ip: there is none").await;
    let one = "serviceName=orders&ip=10.0.0.1&port=80";
    api.fails("PUT", &format!("{INSTANCE}?{one}"), "", "", 404, "no instance").await;
    api.fails("GET", &format!("{INSTANCE}?{one}"), "", "", 404, "no instance").await;
    api.fails("POST", &format!("{INSTANCE}?{one}&ephemeral=false"), "", "", 400, "ephemeral: false").await;
    api.fails("PUT", &format!("{INSTANCE}/beat?{one}&beat=%7B"), "", "", 400, "beat: ").await;
    api.fails("POST", INSTANCE, FORM, &" ".repeat(70_000), 413, "longer than").await;
    api.fails("POST", &format!("{INSTANCE}?{one}"), "via: 1.1 proxy\r\n", "", 403, "via").await;
    api.fails("POST", &format!("{INSTANCE}?{}", one.replace("orders", "a/b")), "", "", 400, "\"a/b\"").await;

    let api = Api::start(Scope::Registrations, nacos(Some("tea"), Some("milk"), &["10.0.0.0/8"])).await;
    api.fails("POST", &format!("{INSTANCE}?{one}"), "", "", 401, "Authorization").await;
    api.fails("POST", &format!("{INSTANCE}?{one}&accessToken=coffee"), "", "", 401, "wrong").await;
    api.fails("POST", &format!("{INSTANCE}?{one}&accessToken=milk"), "", "", 401, "").await;
    let login = |password: &str| format!("username=anybody&password={password}");
    for path in ["/nacos/v1/auth/login", "/nacos/v1/auth/users/login"] {
        let said = api.send("POST", path, FORM, &login("tea")).await.json();
        assert_eq!((&said["accessToken"], &said["tokenTtl"]), (&json!("tea"), &json!(18_000)), "{said}");
        api.fails("POST", path, FORM, &login("coffee"), 401, "wrong").await;
        api.fails("POST", path, FORM, "username=a", 400, "password: there is none").await;
    }
    assert_eq!(api.send("POST", "/nacos/v1/auth/login", FORM, &login("milk")).await.status, 200);
    for (query, headers, body) in [
        ("&accessToken=tea", "", ""),
        ("&username=a&password=tea", "", ""),
        ("", FORM, "accessToken=tea"),
        ("", "authorization: Bearer tea\r\n", ""),
    ] {
        let answer = api.send("POST", &format!("{INSTANCE}?{one}{query}"), headers, body).await;
        assert_eq!(answer.status, 200, "{query}{body}: {}", answer.body);
    }
    api.fails("GET", &format!("{INSTANCE}/list?serviceName=orders"), "", "", 401, "reading needs").await;
    assert_eq!(api.hosts("serviceName=orders&accessToken=milk").await.len(), 1);
    let api = Api::start(Scope::Registrations, nacos(Some("tea"), None, &["127.0.0.0/8"])).await;
    api.ok("POST", one).await;
}
