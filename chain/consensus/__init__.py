"""PBFT as a state machine: inputs lead to a new state and effects (docs/spec/consensus.md)."""
