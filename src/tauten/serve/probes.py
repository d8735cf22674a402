"""Whether the server has started and takes requests: one answer for every API's probes."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tauten.run.deploy.queueing import View
    from tauten.serve.app import Site
    from tauten.serve.service import Service


def started(site: Site) -> bool:
    """Whether every service has been ready once."""
    return all(service.ready or service.was_ready for service in site.services)


def unready(site: Site) -> list[str]:
    """Why requests should go elsewhere now, a reason each; empty when ready."""
    if site.draining:
        return ["draining"]
    wanted = [service for service in site.services if not service.away]
    reasons = [f"{service.name}: {why}" for service in wanted for why in unready_service(service)]
    return reasons or ([] if wanted else ["nothing is served"])


def unready_service(service: Service) -> list[str]:
    """Why one service cannot take requests: it starts, or a deployment that its plans need is broken."""
    if not service.ready:
        return ["closed" if service.was_ready else "starting"]
    return [f"{label} is broken" for label, view in deployments(service) if broken(view)]


def deployments(service: Service) -> list[tuple[str, View]]:
    """Label and state of each deployment of a service; two of one model are told apart by a number."""
    found: list[tuple[str, View]] = []
    for view in service.engine.deployments.views().values():
        same = sum(1 for _, other in found if other.label == view.label)
        found.append((f"{view.label}#{same + 1}" if same else view.label, view))
    return found


def crews(service: Service) -> list[tuple[str, View]]:
    """Label and state of the threads and processes that prepare and decode for a service."""
    engine = service.engine
    return [(crew.label, crew.view()) for crew in (engine.workers, *engine.decoders.crews)]


def broken(view: View) -> bool:
    """Whether a deployment has no replica that works."""
    return view.replicas == 0
