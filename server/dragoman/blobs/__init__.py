"""Where media are kept when not in the database: a folder, or a bucket of anything that speaks S3."""

from dragoman.blobs.objects import BlobsUnusable, ObjectBlobs, open_blobs

__all__ = ["BlobsUnusable", "ObjectBlobs", "open_blobs"]
