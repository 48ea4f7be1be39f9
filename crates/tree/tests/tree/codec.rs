//! S2 to S5: bytes that are not exactly one node are a typed error, and the fast way to the edge of a leaf agrees with
//! the full decoder on every input.

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use state_tree::{
    Key, Leaf, MAX_TYPE_DEPTH, Node, NodeError, NodeHash, NodeLayout, ObjectId, ObjectMeta, ObjectState, PLACEHOLDER,
    RoochLayout, StateRoot, StructTag, TypeTag, embedded_root,
};

fn internal(exist: u16, leaf: u16, children: usize) -> Vec<u8> {
    let mut bytes = vec![1];
    bytes.extend(exist.to_le_bytes());
    bytes.extend(leaf.to_le_bytes());
    bytes.extend((0..children * 32).map(|i| i as u8));
    bytes
}

fn leaf(value: Vec<u8>) -> Vec<u8> {
    Node::Leaf(Leaf { key: Key::new([0xab; 32]), value }).encode().unwrap()
}

fn plain(state_root: Option<StateRoot>) -> ObjectState {
    let metadata = ObjectMeta {
        id: ObjectId::single([1; 32]),
        owner: [2; 32],
        flag: 1,
        state_root,
        size: 3,
        created_at: 4,
        updated_at: 5,
        object_type: TypeTag::U64,
    };
    ObjectState { metadata, value: vec![6; 9] }
}

#[test]
fn every_malformed_internal_node_is_named() {
    let rows = [
        (vec![], NodeError::Empty, "no bytes"),
        (vec![0], NodeError::StoredNull, "the null node"),
        (vec![0, 1], NodeError::StoredNull, "the null node with more"),
        (vec![3], NodeError::UnknownTag(3), "a tag beyond the known ones"),
        (vec![1, 1, 0, 0], NodeError::Short { need: 5, got: 4 }, "half a header"),
        (internal(0, 0, 0), NodeError::NoChild, "no child"),
        (internal(1, 2, 1), NodeError::LeafOutsideExist { exist: 1, leaf: 2 }, "a leaf that does not exist"),
        (internal(4, 4, 1), NodeError::LoneLeaf, "a lone leaf"),
        (internal(3, 0, 1), NodeError::Short { need: 69, got: 37 }, "a child short"),
        (internal(3, 0, 3), NodeError::Trailing(32), "a child too many"),
    ];
    for (bytes, expected, why) in rows {
        assert_eq!(Node::decode(&bytes), Err(expected.clone()), "{why}");
        assert_eq!(RoochLayout.hash(&bytes), Err(expected.clone()), "{why}");
        assert_eq!(RoochLayout.children(&bytes, &mut Vec::new()), Err(expected), "{why}");
    }
    let mut more = internal(3, 3, 2);
    more.push(0);
    assert_eq!(Node::decode(&more), Err(NodeError::Trailing(1)));
    assert!(Node::decode(&internal(0x8000, 0, 1)).is_ok(), "a single child that is not a leaf is legal");
}

#[test]
fn every_malformed_leaf_is_named() {
    let good = leaf(plain(None).encode().unwrap());
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let key = NodeError::Field { field: "key", at: 1 };
    for (at, byte) in [(1, 0x41), (2, b'1'), (3, b'X'), (4, b'A'), (67, b'g')] {
        assert_eq!(Node::decode(&with(at, byte)), Err(key.clone()), "byte {at}");
    }
    let length = NodeError::Field { field: "value", at: 68 };
    let mut long_form = good[..68].to_vec();
    long_form.extend([0x81, 0x00, 0xff]);
    assert_eq!(Node::decode(&long_form), Err(length.clone()), "a length in more bytes than it needs");
    let huge = [&good[..68], &[0xff, 0xff, 0xff, 0xff, 0x0f]].concat();
    assert_eq!(Node::decode(&huge), Err(length), "a length beyond what BCS allows");
    let trailing = [&good[..], &[0]].concat();
    assert_eq!(Node::decode(&trailing), Err(NodeError::Trailing(1)));
    for cut in 0..good.len() {
        assert!(Node::decode(&good[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn every_cut_or_extended_object_is_refused_by_both_readers() {
    for state_root in [None, Some(StateRoot::EMPTY), Some(StateRoot::new(NodeHash::new([9; 32])))] {
        let good = plain(state_root).encode().unwrap();
        let edge = state_root.and_then(|root| root.node());
        assert_eq!(embedded_root(&good), Ok(edge));
        let mut children = Vec::new();
        RoochLayout.children(&leaf(good.clone()), &mut children).unwrap();
        assert_eq!(children, Vec::from_iter(edge), "absent and placeholder are no edge");
        for cut in 0..good.len() {
            assert!(embedded_root(&good[..cut]).is_err() && ObjectState::decode(&good[..cut]).is_err(), "cut at {cut}");
            assert!(RoochLayout.children(&leaf(good[..cut].to_vec()), &mut Vec::new()).is_err(), "cut at {cut}");
        }
        let more = [&good[..], &[0]].concat();
        assert_eq!(embedded_root(&more), Err(NodeError::Trailing(1)));
    }
}

#[test]
fn an_object_without_components_or_with_an_unknown_option_is_refused() {
    let good = plain(None).encode().unwrap();
    let without = [&[0], &good[33..]].concat();
    assert_eq!(embedded_root(&without), Err(NodeError::Field { field: "id", at: 0 }));
    let mut option = good;
    option[66] = 2;
    assert_eq!(embedded_root(&option), Err(NodeError::Field { field: "state_root", at: 66 }));
    assert_eq!(ObjectId::from_components(Vec::new()), None);
}

#[test]
fn types_nest_as_deep_as_bcs_allows_and_no_deeper() {
    let nested = |depth: usize| (1..depth).fold(TypeTag::U8, |inner, _| TypeTag::Vector(Box::new(inner)));
    let mut state = plain(None);
    state.metadata.object_type = nested(MAX_TYPE_DEPTH);
    let bytes = state.encode().unwrap();
    assert_eq!(ObjectState::decode(&bytes).unwrap(), state);
    state.metadata.object_type = nested(MAX_TYPE_DEPTH + 1);
    assert!(matches!(state.encode(), Err(NodeError::Field { field: "object_type", .. })));
    let at = 91;
    let deeper = [&bytes[..at], &[6], &bytes[at..]].concat();
    assert!(ObjectState::decode(&deeper).is_err() && embedded_root(&deeper).is_err());
}

fn type_tag() -> impl Strategy<Value = TypeTag> {
    let plain = prop_oneof![
        Just(TypeTag::Bool),
        Just(TypeTag::U8),
        Just(TypeTag::U16),
        Just(TypeTag::U32),
        Just(TypeTag::U64),
        Just(TypeTag::U128),
        Just(TypeTag::U256),
        Just(TypeTag::Address),
        Just(TypeTag::Signer),
    ];
    plain.prop_recursive(4, 16, 3, |inner| {
        let name = "[a-zA-Z_][a-zA-Z0-9_]{0,12}";
        let of = (any::<[u8; 32]>(), name, name, prop::collection::vec(inner.clone(), 0..3));
        prop_oneof![
            inner.prop_map(|tag| TypeTag::Vector(Box::new(tag))),
            of.prop_map(|(address, module, name, type_params)| {
                TypeTag::Struct(Box::new(StructTag { address, module, name, type_params }))
            }),
        ]
    })
}

fn object_state() -> impl Strategy<Value = ObjectState> {
    let root = prop_oneof![
        Just(None),
        Just(Some(StateRoot::EMPTY)),
        any::<[u8; 32]>().prop_map(|bytes| Some(StateRoot::new(NodeHash::new(bytes)))),
    ];
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>());
    let ids = prop::collection::vec(any::<[u8; 32]>(), 1..4);
    let value = prop::collection::vec(any::<u8>(), 0..300);
    let parts = (ids, any::<[u8; 32]>(), any::<u8>(), root, numbers, type_tag(), value);
    parts.prop_map(|(ids, owner, flag, state_root, (size, created_at, updated_at), object_type, value)| {
        let id = ObjectId::from_components(ids).unwrap();
        let metadata = ObjectMeta { id, owner, flag, state_root, size, created_at, updated_at, object_type };
        ObjectState { metadata, value }
    })
}

proptest! {
    #[test]
    fn an_object_survives_encoding_and_both_readers_agree_on_its_edge(state in object_state()) {
        let bytes = state.encode().unwrap();
        prop_assert_eq!(&ObjectState::decode(&bytes).unwrap(), &state);
        prop_assert_eq!(embedded_root(&bytes).unwrap(), state.fields().node());
    }

    /// One to three bytes changed, inserted or removed: both readers accept the same bytes and see the same edge.
    #[test]
    fn the_fast_path_accepts_exactly_what_the_full_decoder_accepts(
        state in object_state(), edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3), 1..4)
    ) {
        let mut bytes = state.encode().unwrap();
        for (at, byte, kind) in edits {
            let at = at.index(bytes.len().min(140));
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        let full = ObjectState::decode(&bytes);
        prop_assert_eq!(embedded_root(&bytes), full.as_ref().map(|state| state.fields().node()).map_err(Clone::clone));
        if let Ok(state) = full {
            prop_assert_eq!(state.encode().unwrap(), bytes, "only one encoding is accepted");
        }
    }

    /// Short input of every length: both readers name the same need.
    #[test]
    fn the_fast_path_reports_what_the_full_decoder_reports_wherever_bytes_end(state in object_state()) {
        let bytes = state.encode().unwrap();
        for end in 0..bytes.len() {
            prop_assert_eq!(embedded_root(&bytes[..end]), Err(ObjectState::decode(&bytes[..end]).unwrap_err()));
        }
    }

    #[test]
    fn a_node_is_accepted_in_one_encoding_only(exist in any::<u16>(), leaf in any::<u16>(), extra in 0..40usize, cut in 0..40usize) {
        let mut bytes = internal(exist, leaf & exist, exist.count_ones() as usize);
        bytes.extend(vec![7; extra]);
        bytes.truncate(bytes.len() - cut.min(bytes.len()));
        if let Ok(node) = Node::decode(&bytes) {
            prop_assert_eq!(extra.min(bytes.len()), cut.min(bytes.len()));
            prop_assert_eq!(node.encode().unwrap(), bytes);
        }
    }
}

#[test]
fn noise_never_decodes_to_a_node_that_encodes_to_something_else() {
    let seed = 11;
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    for round in 0..20_000 {
        let mut bytes: Vec<u8> = (0..rng.random_range(0..110)).map(|_| rng.random()).collect();
        if let Some(first) = bytes.first_mut() {
            *first %= 3;
        }
        if let Ok(node) = Node::decode(&bytes) {
            assert_eq!(node.encode().unwrap(), bytes, "seed {seed} round {round}");
        }
    }
}

#[test]
fn the_placeholder_is_never_reported_as_a_child() {
    let mut bytes = internal(3, 3, 2);
    bytes[5..37].copy_from_slice(PLACEHOLDER.as_bytes());
    let mut children = Vec::new();
    RoochLayout.children(&bytes, &mut children).unwrap();
    assert_eq!(children.len(), 1);
}
