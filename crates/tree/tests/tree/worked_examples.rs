//! The worked examples of the format, bytes and hashes as the reference wrote them.

use std::collections::BTreeMap;

use state_tree::{
    Change, Changes, Child, ChildKind, FieldsBase, Internal, Joined, Key, Leaf, Node, NodeHash, NodeLayout, NodeView,
    Object, ObjectId, ObjectMeta, ObjectState, PLACEHOLDER, Put, RoochLayout, StateRoot, TypeTag, get, update,
};

use crate::store::Store;

const E2_LEAF: &str = "\
    024230783130303030303030303030303030303030303030303030303030303030303030303030303030303030303030303030303030303030303030303030303030303161011111111111111111111111111111\
    11111111111111111111111111111111111100000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000401020304";
const E3_LEAF: &str = "\
    0242307861303030303030303030303030303030303030303030303030303030303030303030303030303030303030303030303030303030303030303030303030303032a0010122222222222222222222222222\
    222222222222222222222222222222222222220000000000000000000000000000000000000000000000000000000000000000000142307832383230346464633031336336666136323432646266633430613634\
    6435653937373363653932356666323330646663346166656437626536643035393936620000000000000000000000000000000000000000000000000000";
const E4_ROOT: &str = "010204020428204ddc013c6fa6242dbfc40a64d5e9773ce925ff230dfc4afed7be6d05996b9157064c0bbb5c6bec268ea01e8354025f471abe925fbc2f34fac41660a7fdd8";
const E5_LEAF: &str = "\
    02423078313730303030303030303030303030303030303030303030303030303030303030303030303030303030303030303030303030303030303030303030303030335e013333333333333333333333333333\
    33333333333333333333333333333333333300000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000109";
const E5_INNER: &str = "018100810028204ddc013c6fa6242dbfc40a64d5e9773ce925ff230dfc4afed7be6d05996b1f8f6c06ab4d6fa3794fbea4392a3dd8fbaa83c30b0cca88efe202d9789954f2";
const E5_ROOT: &str = "01020400040080d295d2c5fb18d57ddd1282664e7f10a15ecd2aff0f3473dd1dc070c4bc269157064c0bbb5c6bec268ea01e8354025f471abe925fbc2f34fac41660a7fdd8";

const E2: &str = "28204ddc013c6fa6242dbfc40a64d5e9773ce925ff230dfc4afed7be6d05996b";
const E3: &str = "9157064c0bbb5c6bec268ea01e8354025f471abe925fbc2f34fac41660a7fdd8";
const E4: &str = "74812f4f1d0d10e98ff6d4a363015978a35107dfde1ca54291414a43d760a3f4";
const E5_LEAF_HASH: &str = "1f8f6c06ab4d6fa3794fbea4392a3dd8fbaa83c30b0cca88efe202d9789954f2";
const E5_INNER_HASH: &str = "0080d295d2c5fb18d57ddd1282664e7f10a15ecd2aff0f3473dd1dc070c4bc26";
const E5: &str = "d59f6ff100af16dc7bca5fd1b18245c9ab5417eabca9fc8d9ae023b53f684fc7";

fn bytes(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap()
}

fn hash(text: &str) -> NodeHash {
    NodeHash::from_hex(text).unwrap()
}

fn key(first: u8, last: u8) -> Key {
    let mut bytes = [0; 32];
    (bytes[0], bytes[31]) = (first, last);
    Key::new(bytes)
}

/// The object states of the examples: one component, type bool, everything else zero.
fn object(component: u8, state_root: Option<StateRoot>, value: &[u8]) -> ObjectState {
    let metadata = ObjectMeta {
        id: ObjectId::single([component; 32]),
        owner: [0; 32],
        flag: 0,
        state_root,
        size: 0,
        created_at: 0,
        updated_at: 0,
        object_type: TypeTag::Bool,
    };
    ObjectState { metadata, value: value.to_vec() }
}

fn leaf(key: Key, object: &ObjectState) -> Node {
    Node::Leaf(Leaf { key, value: object.encode().unwrap() })
}

fn internal(children: &[(usize, &str, ChildKind)]) -> Node {
    let mut slots = [None; 16];
    for (nibble, text, kind) in children {
        slots[*nibble] = Some(Child { hash: hash(text), kind: *kind });
    }
    let Joined::Node(node) = Internal::join(&slots) else { panic!("not a node") };
    Node::Internal(node)
}

/// Encoding, decoding, hash and edges of one example.
fn check(node: &Node, encoded: &str, expected: &str, edges: &[&str]) {
    let encoded = bytes(encoded);
    assert_eq!(hex::encode(node.encode().unwrap()), hex::encode(&encoded));
    assert_eq!(Node::decode(&encoded).unwrap(), *node);
    assert_eq!(node.hash(), hash(expected));
    let mut children = Vec::new();
    assert_eq!(RoochLayout.read(&encoded, &mut children).unwrap(), hash(expected));
    assert_eq!(children, edges.iter().map(|edge| hash(edge)).collect::<Vec<_>>());
}

#[test]
fn e1_the_empty_tree_is_the_placeholder_and_has_no_node() {
    assert_eq!(PLACEHOLDER.to_string(), "5350415253455f4d45524b4c455f504c414345484f4c4445525f484153480000");
    assert_eq!(StateRoot::EMPTY.node(), None);
    let delta = update(StateRoot::EMPTY, &Changes::default(), &Store::default()).unwrap();
    assert_eq!((delta.root, delta.created.len()), (StateRoot::EMPTY, 0));
    assert_eq!(NodeView::decode(&[0]), Err(state_tree::NodeError::StoredNull));
    assert_eq!(get(StateRoot::EMPTY, &[key(1, 1)], &Store::default()).unwrap(), None);
}

#[test]
fn e2_a_leaf_without_fields() {
    let node = leaf(key(0x10, 1), &object(0x11, None, &[1, 2, 3, 4]));
    check(&node, E2_LEAF, E2, &[]);
}

#[test]
fn e3_a_leaf_whose_object_has_fields() {
    let node = leaf(key(0xa0, 2), &object(0x22, Some(StateRoot::new(hash(E2))), &[]));
    check(&node, E3_LEAF, E3, &[E2]);
}

#[test]
fn e4_an_internal_node_with_two_leaves() {
    check(&internal(&[(1, E2, ChildKind::Leaf), (10, E3, ChildKind::Leaf)]), E4_ROOT, E4, &[E2, E3]);
}

#[test]
fn e5_a_leaf_is_pushed_down_by_its_neighbour() {
    check(&leaf(key(0x17, 3), &object(0x33, None, &[9])), E5_LEAF, E5_LEAF_HASH, &[]);
    let inner = internal(&[(0, E2, ChildKind::Leaf), (7, E5_LEAF_HASH, ChildKind::Leaf)]);
    check(&inner, E5_INNER, E5_INNER_HASH, &[E2, E5_LEAF_HASH]);
    let root = internal(&[(1, E5_INNER_HASH, ChildKind::Internal), (10, E3, ChildKind::Leaf)]);
    check(&root, E5_ROOT, E5, &[E5_INNER_HASH, E3]);
}

/// The delta of E5. The update records "no fields" as the placeholder, where the example has no root at all, so the
/// emitted hashes are its own; the places are those of the example.
#[test]
fn e5_the_delta_emits_three_nodes_and_replaces_one() {
    let mut store = Store::default();
    [E2_LEAF, E3_LEAF, E4_ROOT].iter().for_each(|node| {
        store.put(&bytes(node));
    });
    let content = Object {
        id: ObjectId::single([0x33; 32]),
        owner: [0; 32],
        flag: 0,
        created_at: 0,
        updated_at: 0,
        object_type: TypeTag::Bool,
        value: vec![9],
    };
    let put = Put { object: Some(content), base: FieldsBase::Keep, fields: Changes::default() };
    let changes = Changes(BTreeMap::from([(key(0x17, 3), Change::Put(put))]));
    let delta = update(StateRoot::new(hash(E4)), &changes, &store).unwrap();
    assert_eq!(delta.created.len(), 3);
    let [replaced] = &delta.replaced[..] else { panic!("{:?}", delta.replaced) };
    assert_eq!((replaced.hash, replaced.above), (hash(E4), None));
    assert_eq!(replaced.unchanged, [hash(E2), hash(E3)], "E2 only moved");
    assert!(!delta.created.contains_key(&hash(E2)));
}

/// Smallest case of hash reuse, and of a node that gains a parent without being written (S22).
#[test]
fn e6_deleting_brings_the_old_root_back_and_pulls_a_leaf_up() {
    let mut store = Store::default();
    [E2_LEAF, E3_LEAF, E5_LEAF, E5_INNER, E5_ROOT].iter().for_each(|node| {
        store.put(&bytes(node));
    });
    let changes = Changes(BTreeMap::from([(key(0x17, 3), Change::Remove)]));
    let delta = update(StateRoot::new(hash(E5)), &changes, &store).unwrap();
    assert_eq!(delta.root, StateRoot::new(hash(E4)));
    assert_eq!(delta.created.keys().copied().collect::<Vec<_>>(), [hash(E4)]);
    assert_eq!(hex::encode(&delta.created[&hash(E4)].bytes), E4_ROOT);
    let stale = BTreeMap::from([(hash(E5_INNER_HASH), 1), (hash(E5_LEAF_HASH), 1), (hash(E5), 1)]);
    assert_eq!(delta.stale(), stale);
}

#[test]
fn e7_a_struct_type_in_full() {
    let text = "070000000000000000000000000000000000000000000000000000000000000002057461626c65105461626c65506c616365686f6c64657200";
    let mut address = [0; 32];
    address[31] = 2;
    let tag = state_tree::StructTag {
        address,
        module: "table".into(),
        name: "TablePlaceholder".into(),
        type_params: Vec::new(),
    };
    let mut state = object(1, None, &[]);
    state.metadata.object_type = TypeTag::Struct(Box::new(tag));
    let encoded = state.encode().unwrap();
    assert_eq!(hex::encode(&encoded[91..encoded.len() - 1]), text, "after id, owner, flag, no root and three numbers");
    assert_eq!(ObjectState::decode(&encoded).unwrap(), state);
}

const E8_NODES: [&str; 14] = [
    "813f303539bcebdb5613840e6365fb80ec1d9c9117972ebf6d2acbfd475b3542",
    "20a19bb186578a2c818b3befb8e8d5c4de7b650ce663068c1a5c7f5a2b92ed16",
    "6c00e7f4aef5952bb3bdbe525491e92e0906cb79d3e3894083f8a41f65399816",
    "389cd96d0220e2a5cc55ebb6760c7603693e9d9d55d6053359b661088bbeec0f",
    "1d5f86b542bd451c0ab61e93874061a574ba0e0ab00f6b8666756c1d3ad5a95b",
    "4125da80bf3e870eb51ca20e3d334a1b00e0dafcce5cbf0cad2b10578e2962d2",
    "adeeb5472af43a81b4ab874771b3626e1111877698d18b9f5e239b49be2ba736",
    "dcbd197d1801e3b590ac51e97e4b224c3c1f124fbd6860214119f85a21a59005",
    "d336e8a05c5980a3381ccd4bdde0cc73d5212970a15e91a618a13f0101ec5dc0",
    "7ae492527bf80ea7c7a38e1ff715c14746e3de8f90e7acb4e128ab910350042d",
    "86b64b026a798e58514524edb95db4899885e66b8eab5ce5e007cc0eef025dd2",
    "7d78f2600c4b1d6143270a5b7d3e338f785ca10f11ffbcfef376c80ee09bdae3",
    "bd404a01e27283ff9936aed977b7984775737d2825e6d558cc4a6be5118ad359",
    "a98f12834795841087349da56ceae900e7f9420d0f57b31c0eefc22dde33bf09",
];
const E8_LENGTHS: [usize; 14] = [37, 101, 234, 234, 234, 69, 69, 69, 264, 264, 264, 264, 264, 264];

fn e8_object(id: ObjectId, value: Vec<u8>) -> Object {
    Object { id, owner: [0; 32], flag: 0, created_at: 0, updated_at: 0, object_type: TypeTag::Bool, value }
}

/// Object i of E8 with its two fields; the value of its first field is `first`.
fn e8_changes(i: u8, object_value: Option<Vec<u8>>, fields: &[(u8, Vec<u8>)]) -> (Key, Change) {
    let id = ObjectId::single([i + 1; 32]);
    let field = |(component, value): &(u8, Vec<u8>)| {
        let key = Key::new([*component; 32]);
        let object = Some(e8_object(id.child(&key), value.clone()));
        (key, Change::Put(Put { object, base: FieldsBase::Keep, fields: Changes::default() }))
    };
    let fields = Changes(fields.iter().map(field).collect());
    let object = object_value.map(|value| e8_object(id.clone(), value));
    (Key::new([i + 1; 32]), Change::Put(Put { object, base: FieldsBase::Keep, fields }))
}

fn e8() -> (Store, StateRoot) {
    let objects = (0..3).map(|i| e8_changes(i, Some(vec![i; 4]), &[(0x40, vec![0; 2]), (0x50, vec![1; 2])]));
    let delta = update(StateRoot::EMPTY, &Changes(objects.collect()), &Store::default()).unwrap();
    let mut store = Store::default();
    store.apply(&delta);
    (store, delta.root)
}

#[test]
fn e8_a_real_store_is_built_to_the_same_fourteen_nodes() {
    let (store, root) = e8();
    assert_eq!(root.hash(), hash(E8_NODES[0]));
    let lengths: BTreeMap<NodeHash, usize> = E8_NODES.iter().map(|text| hash(text)).zip(E8_LENGTHS).collect();
    let built: BTreeMap<NodeHash, usize> = store.0.iter().map(|(hash, bytes)| (*hash, bytes.len())).collect();
    assert_eq!(built, lengths);
    let object = get(root, &[Key::new([1; 32])], &store).unwrap().unwrap();
    assert_eq!((object.metadata.size, object.fields().hash()), (2, hash(E8_NODES[5])));
}

/// The reference reports three of the five places that change; the nested two are the leak L1.
#[test]
fn e8_changing_one_nested_field_emits_five_nodes_and_replaces_five() {
    let (store, root) = e8();
    let changes = Changes([e8_changes(0, None, &[(0x40, vec![0x63; 2])])].into());
    let delta = update(root, &changes, &store).unwrap();
    assert_eq!(delta.created.len(), 5);
    let replaced: Vec<NodeHash> = delta.replaced.iter().map(|place| place.hash).collect();
    let expected = [E8_NODES[0], E8_NODES[1], E8_NODES[2], E8_NODES[5], E8_NODES[8]].map(hash);
    assert_eq!(replaced, expected, "from the global root down into the nested tree");
    assert!(delta.dropped.is_empty() && delta.adopted.is_empty());
}
