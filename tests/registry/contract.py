"""Every RPC of our services, by the contract's descriptors: for tests that must miss none."""

from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor, MethodDescriptor

from lorry.admin.v1 import admin_service_pb2
from lorry.inference.v1 import inference_service_pb2
from lorry.registry.v1 import (
    access_service_pb2,
    blob_service_pb2,
    registry_service_pb2,
    watch_service_pb2,
)

REGISTRY_FILES = (
    registry_service_pb2,
    blob_service_pb2,
    watch_service_pb2,
    access_service_pb2,
)
SERVER_FILES = (inference_service_pb2, admin_service_pb2)


def methods(*modules: Any) -> Mapping[str, MethodDescriptor]:
    """By full name, `/package.Service/Method`."""
    files: list[FileDescriptor] = [module.DESCRIPTOR for module in modules]
    return {
        f"/{service.full_name}/{method.name}": method
        for file in files
        for service in file.services_by_name.values()
        for method in service.methods
    }


def request_class(method: MethodDescriptor) -> type[Any]:
    return message_factory.GetMessageClass(method.input_type)


def response_class(method: MethodDescriptor) -> type[Any]:
    return message_factory.GetMessageClass(method.output_type)


def text_fields(message: Descriptor, prefix: str = "", depth: int = 4) -> Iterator[str]:
    """The paths of all text fields of a message and of those in it."""
    for field in message.fields:
        path = f"{prefix}{field.name}"
        if field.type == FieldDescriptor.TYPE_STRING:
            yield path
        elif field.message_type is not None and depth:
            yield from text_fields(field.message_type, f"{path}.", depth - 1)
