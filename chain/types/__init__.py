"""The values of the chain: blocks, transactions, receipts, certificates, accounts, validators."""
