"""PBFT as a state machine: inputs in, a new state and effects out (docs/spec/consensus.md)."""
