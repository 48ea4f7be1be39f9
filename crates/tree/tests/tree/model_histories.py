"""Runs seeded histories of the model of one-bit counts and prints what it did and what it then holds, a JSON line a step.

    python3 model_histories.py FOLDER_OF_THE_MODEL FIRST_SEED HISTORIES STEPS

Nodes have structural names that both sides can make: twelve hex digits of the SHA-256 of "leaf KEY VALUE FIELDS" or of
"internal DIGIT:CHILD ...", where FIELDS and CHILD are names again.
"""
import hashlib
import json
import sys

sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
import incremental_model as model

CHAIN = model.Chain


def text(key):
    return "".join(map(str, key))


class Names:
    """The names of nodes, by the address that the model gives them."""

    def __init__(self):
        self.known = {model.NONE: "-"}

    def learn(self, nodes):
        for address in nodes:
            self.of(address, nodes)

    def of(self, address, nodes=None):
        if address not in self.known:
            node = nodes[address]
            if node[0] == 1:
                parts = ["internal"] + [f"{digit}:{self.of(child, nodes)}" for digit, child in node[1]]
            else:
                parts = ["leaf", text(node[1]), str(node[2]), self.of(node[3], nodes)]
            self.known[address] = hashlib.sha256(" ".join(parts).encode()).hexdigest()[:12]
        return self.known[address]


class Recorder(CHAIN):
    """The model's chain; each operation is printed with the pins it found and with what holds after it."""

    def __init__(self, window, rules):
        self.names, self.recording = Names(), False
        super().__init__(window, rules)
        self.recording = True
        print(json.dumps(dict(op="begin", window=window)))

    def commit(self, objects, adopt):
        if not self.recording:
            return super().commit(objects, adopt)
        parent = self.states[-1][1]
        root = lambda key: model.build(parent[key][1] or {}, 0, {}) if key in parent else model.NONE
        # An object that is given the fields it has already adopts nothing; the model would count a move onto itself.
        adopt = {key: x for key, x in adopt.items() if root(key) != x}
        sources = {text(key): min(text(s) for s in parent if root(s) == x) for key, x in adopt.items()}
        pins = sorted(self.pins)
        super().commit(objects, adopt)
        fields = lambda own: None if own is None else {text(k): value for k, (value, _) in own.items()}
        state = {text(k): [value, fields(own)] for k, (value, own) in objects.items()}
        self.tell(pins, op="commit", objects=state, adopt=sources)

    def incremental_sweep(self):
        pins = sorted(self.pins)
        super().incremental_sweep()
        self.tell(pins, op="sweep")

    def major_cycle(self):
        pins = sorted(self.pins)
        super().major_cycle()
        self.tell(pins, op="cycle")

    def rollback(self, order):
        pins = sorted(self.pins)
        super().rollback(order)
        self.tell(pins, op="rollback", order=order)

    def tell(self, pins, **operation):
        self.names.learn(self.disk)
        name = lambda hashes: sorted(map(self.names.of, hashes))
        entries = {order: [name(stale), name(dropped)] for order, (stale, dropped) in self.journal.items()}
        holds = dict(
            root=self.names.of(self.states[-1][0]),
            journal={order: entry for order, entry in entries.items() if any(entry)},
            many={self.names.of(x): order for x, order in self.many.items()},
            present=name(self.disk),
            cutoff=self.cutoff,
            swept=self.swept,
        )
        print(json.dumps(dict(operation, pins=pins, holds=holds)))


def main():
    first, count, steps = map(int, sys.argv[2:])
    model.Chain = Recorder
    for seed in range(first, first + count):
        lost, _ = model.history(seed, model.RULES, steps)
        assert lost is None, lost


main()
