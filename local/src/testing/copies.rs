//! Workers in large numbers: copies of one that has registered. A registration reads who is registered already, which takes
//! minutes for thousands of them.

use anyhow::ensure;
use serde_json::{Value, json};

use crate::dynamodb::{TABLE, TARGET};
use crate::local_relay::LocalRelay;

/// BatchWriteItem takes this many items.
const WRITES: usize = 25;

impl LocalRelay {
    /// Makes a worker into so many. `edit` changes the JSON of the items of each copy, which are numbered from 1.
    ///
    /// # Errors
    ///
    /// There is no such worker.
    pub async fn copy_worker(
        &self,
        [workspace, id]: [&str; 2],
        workers: usize,
        edit: impl Fn(usize, String) -> String,
    ) -> anyhow::Result<()> {
        let mut items = Vec::new();
        for (partition, sort) in [
            (format!("WS#{workspace}#WORKER#{id}"), "WORKER"),
            (format!("WS#{workspace}#ROUTES"), id),
        ] {
            let key = json!({"pk": {"S": partition}, "sk": {"S": sort}});
            let request = json!({"TableName": TABLE, "Key": key});
            items.push(self.dynamodb("GetItem", &request).await?["Item"].to_string());
        }
        let mut puts = Vec::new();
        for number in 1..workers {
            let copy = format!("wrk_{number:032x}");
            for item in &items {
                let item = edit(number, item.replace(id, &copy));
                let item: Value = serde_json::from_str(&item)?;
                puts.push(json!({"PutRequest": {"Item": item}}));
            }
        }
        for puts in puts.chunks(WRITES) {
            let request = json!({"RequestItems": {TABLE: puts}});
            self.dynamodb("BatchWriteItem", &request).await?;
        }
        Ok(())
    }

    async fn dynamodb(&self, action: &str, request: &Value) -> anyhow::Result<Value> {
        let target = format!("{TARGET}{action}");
        let answer = (self.call_aws(&target, request.to_string().as_bytes())).await;
        ensure!(answer.status() == 200, "{action} was refused");
        Ok(serde_json::from_slice(answer.body())?)
    }
}
