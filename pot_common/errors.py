"""Errors that only the operator can fix: one line, with the setting and the cure."""


class OperatorError(Exception):
    """Something outside the program is wrong; the message says what to change.

    The command line prints the message on one line and ends with status 1, without a traceback.
    """


class StorageError(OperatorError):
    """The disk refused a write, or returned other bytes than were written.

    After one from the write-ahead log, the guard file or the database, this process signs and
    finalizes nothing more: after a failed fsync the kernel may have dropped the very pages that a
    second fsync would then call durable.
    """
