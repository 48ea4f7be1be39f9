//! The binary killed at a random moment under load: whatever it acknowledged is there after a restart.

#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use reqwest::Client;
use serde_json::json;
use state_node::{
    chain::{Hex32, ObjectPath, Outcome},
    http::{Submitted, WireAnswer},
};

/// A node process; killed when it goes out of scope.
struct Node {
    process: Child,
    url: String,
}

impl Node {
    fn start(data: &Path) -> Self {
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/node.toml");
        let settings = [
            format!("node.data_dir={}", data.display()),
            "node.listen=127.0.0.1:0".to_owned(),
            "chain.block_interval=1ms".to_owned(),
            "pruner.keep_last=4".to_owned(),
            "pruner.every_orders=5".to_owned(),
            "pruner.cooldown=0s".to_owned(),
        ];
        let mut process = Command::new(env!("CARGO_BIN_EXE_state-node"))
            .arg("start")
            .arg("--config")
            .arg(config)
            .args(settings.iter().flat_map(|setting| ["--set", setting]))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines().map(Result::unwrap);
        let line = log.find(|line| line.contains("serving http://")).unwrap();
        let at = line.find("http://").unwrap();
        let url = line.split_at(at).1.split_whitespace().next().unwrap().to_owned();
        // The rest of the log must be read, or the node would wait for room in the pipe.
        std::thread::Builder::new().spawn(move || log.count()).unwrap();
        Self { process, url }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn path(number: u32) -> ObjectPath {
    let mut name = [0; 32];
    name[..4].copy_from_slice(&number.to_be_bytes());
    ObjectPath::top(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_nine_loses_nothing_that_was_acknowledged() {
    let seed = std::env::var("SEED").map_or(7, |text| text.parse().unwrap());
    println!("SEED={seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let client = Client::builder().no_proxy().build().unwrap();
    let mut acknowledged = 0;
    for round in 0..4 {
        let node = Node::start(folder.path());
        for number in 0..acknowledged {
            let url = format!("{}/v1/objects/{}?proof=true", node.url, path(number));
            let answer: WireAnswer = client.get(url).send().await.unwrap().json().await.unwrap();
            let object = answer.proof.unwrap().verify(&path(number)).unwrap().unwrap();
            assert_eq!(object.value, number.to_be_bytes(), "round {round}");
        }
        let doomed_after = rng.random_range(10..40);
        for _ in 0..doomed_after {
            let create = json!({ "create_object": {
                "id": path(acknowledged),
                "owner": Hex32([1; 32]),
                "value": hex::encode(acknowledged.to_be_bytes()),
            }});
            let sent = client.post(format!("{}/v1/transactions", node.url)).json(&create).send().await.unwrap();
            let submitted: Submitted = sent.json().await.unwrap();
            assert!(submitted.receipts.iter().all(|receipt| receipt.outcome == Outcome::Applied));
            acknowledged += 1;
        }
        drop(node); // SIGKILL, right after an answer, with cycles under way
    }
}
