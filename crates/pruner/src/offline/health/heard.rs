//! The health of a node's store by its heartbeat.

use state_store::free_bytes_of;

use super::{HealthRequest, Looked, canonical, now_ms, of_node};
use crate::{
    health::{ByHeartbeat, Facts, Health, Unread},
    heartbeat::{Beat, NoHeartbeat},
};

/// The health of a node's store by its heartbeat, without opening the store: in a time that does not grow with it. Neither the
/// write-ahead log nor the length of any table is looked at. The file lies beside the folder as it is named, or where a link to it
/// leads.
///
/// Errors: there is none that counts now, and why.
pub fn health_by_heartbeat(request: &HealthRequest) -> Result<Health, NoHeartbeat> {
    let now = now_ms(request);
    let named = Beat::read(&request.db, now);
    let request = &HealthRequest { db: canonical(&request.db), ..request.clone() };
    let (beat, holder) = match named {
        Err(why) => Beat::read(&request.db, now).map_err(|_| why)?, // the same, unless a link leads there
        Ok(named) => named,
    };
    let is_cut = beat.is_cut(holder.as_ref());
    let Beat { at_ms, need, rows, .. } = beat;
    let mut unread = Unread::default();
    let need = need.ok_or_else(|| "what the next cycle needs was not known to its node".to_owned());
    let by = ByHeartbeat { at_ms, now_ms: now, is_cut };
    let looked = Looked {
        view: &rows,
        holder,
        free: free_bytes_of(&request.db).map(Some),
        need: &|| need.clone(),
        cut: None, // nobody looked
    };
    let facts = Facts { by_heartbeat: Some(by), ..of_node(looked, request, &mut unread) };
    Ok(unread.judge(facts, &request.bounds)?)
}
