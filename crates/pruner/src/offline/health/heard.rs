//! The health of a node's store by its heartbeat.

use state_store::free_bytes_of;

use super::{HealthRequest, Looked, canonical, now_ms, of_node};
use crate::{
    health::{ByHeartbeat, Facts, Health, Unread},
    heartbeat::{Beat, NoHeartbeat},
};

/// The health of a node's store by its heartbeat, without opening the store: in a time that does not grow with it. Neither the
/// write-ahead log nor the length of any table is looked at.
///
/// Errors: there is none that counts now, and why.
pub fn health_by_heartbeat(request: &HealthRequest) -> Result<Health, NoHeartbeat> {
    let request = &HealthRequest { db: canonical(&request.db), ..request.clone() };
    let (Beat { at_ms, is_last, need, rows, .. }, holder) = Beat::read(&request.db, now_ms(request))?;
    let mut unread = Unread::default();
    let need = need.ok_or_else(|| "what the next cycle needs was not known to its node".to_owned());
    let by = ByHeartbeat { at_ms, now_ms: now_ms(request), is_cut: !is_last && holder.is_none() };
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
