"""Values that contradict each other are refused, with a message that says what to do."""

import unittest

import chart

REFUSED = {
    # What is set → what the message says.
    ("terminationGracePeriodSeconds=60",): r"is 60, but preStopSeconds \(5\) \+ leaveSeconds \(5\) \+ drainSeconds \(60\) \+ 10 is 80.*leave it empty",
    ("terminationGracePeriodSeconds=80", "drainSeconds=61"): "10 is 81",
    ("settings.INFERENCE_DRAIN_TIMEOUT=5s",): "settings.INFERENCE_DRAIN_TIMEOUT is set by the chart itself: use drainSeconds",
    ("settings.INFERENCE_CACHE_DIR=/x",): "use cache",
    ("settings.INFERENCE_MAX_BATCHSIZE=8",): "settings.INFERENCE_MAX_BATCHSIZE is no setting of this version",
    (
        "extraEnv[0].name=POD_NAME",
        "extraEnv[0].value=x",
    ): "extraEnv has POD_NAME, which the chart itself sets",
    (
        "extraEnv[0].name=RUST_LOG",
        "extraEnv[0].value=debug",
        "settings.RUST_LOG=info",
    ): "extraEnv and settings both have RUST_LOG",
    ("mode=env",): "set model.source to",
    ("model.source=/models/x",): "model.source is for mode env, and mode is crd",
    ("model.promptTemplate=x",): "templates of model are for mode env, and mode is crd: give them to the model in its Model object",
    ("models[0].name=x", "models[0].spec.source.path=x"): "models is for mode configMap, and mode is crd",
    (
        "mode=configMap",
        "configMap.existingName=mine",
        "models[0].name=x",
        "models[0].spec.source.path=x",
    ): "somebody else keeps",
    ("auth.mode=apiKeys",): "set auth.keys.secretName",
    ("auth.keys.secretName=x",): "auth.keys.secretName is for auth.mode apiKeys, and auth.mode is none",
    ("auth.audiences={x}",): "auth.audiences is for auth.mode or auth.metrics kubernetes",
    ("tls.clientCa.configMapName=x",): "set tls.secretName",
    ("tests.keySecret.name=x",): "auth.mode is none: leave it out",
    ("tests.keySecret.name=x", "auth.mode=kubernetes", "tls.secretName=y"): "not for TLS",
    ("settings.INFERENCE_AUTH_MODE=apiKeys",): "is set by the chart itself: use auth.mode",
    ("settings.INFERENCE_TLS_CERT_FILE=/x",): "use tls.secretName",
    ("cache.type=hostPath",): "set cache.hostPath.path",
    ("modelRoot.type=hostPath",): "set modelRoot.hostPath.path",
    ("modelRoot.type=persistentVolumeClaim",): "set modelRoot.persistentVolumeClaim.existingClaim",
    ("modelRoot.type=volume",): "set modelRoot.volume",
    (
        "cache.type=persistentVolumeClaim",
        "cache.persistentVolumeClaim.accessModes={ReadWriteOncePod}",
        "replicaCount=2",
    ): "use ReadWriteMany, or cache.type ephemeral",
    ("autoscaling.enabled=true", "keda.enabled=true", "keda.serverAddress=http://p"): "enable one of them",
    ("keda.enabled=true",): "set keda.serverAddress",
    (
        "autoscaling.enabled=true",
        "autoscaling.minReplicas=9",
    ): r"minReplicas \(9\) is above autoscaling.maxReplicas \(5\)",
    ("serviceMonitor.enabled=true", "podMonitor.enabled=true"): "would scrape every pod twice",
    ("serviceMonitor.enabled=true", "scrapeAnnotations=true"): "would scrape every pod twice",
    ("httpRoute.enabled=true",): "set httpRoute.parentRefs",
    (
        "httpRoute.enabled=true",
        "httpRoute.parentRefs[0].name=x",
        "httpRoute.backend=InferencePool",
    ): "set inferencePool.enabled",
    ("traces.endpoint=http://c:4318", "networkPolicy.enabled=true"): "add a rule for it to networkPolicy.extraEgress",
    ("settings.OTEL_SERVICE_NAME=x",): "use traces.serviceName",
    ("inferencePool.enabled=true",): "set inferencePool.endpointPicker.serviceName",
    ("networkPolicy.apiServer.cidrs={168.0.0.0/6}",): "networkPolicy opens 168.0.0.0/6",
    ("networkPolicy.apiServer.cidrs={169.254.0.0/15}",): "name smaller networks",
    ("networkPolicy.apiServer.cidrs={169.254.169.254/32}",): "name smaller networks",
    ("networkPolicy.apiServer.cidrs={fd00:ec2::/32}",): "name smaller networks",
    ("extraEnv[0].name=HTTPS_PROXY", "extraEnv[0].value=x"): "use proxy.https",
    # By the schema of values.
    ("image.tag=latest",): "/image/tag",
    ("mode=deployment",): "/mode",
    ("replicas=2",): "'replicas' not allowed",
    ("probes.readiness.path=/x",): "'path' not allowed",
    ("autoscaling.minReplicas=0",): "/autoscaling/minReplicas",
    ("models[0].name=x", "models[0].source=y"): "/models/0",
    ("resources=1",): "/resources",
    ("proxy.https=proxy.example.com:3128",): "/proxy/https",
}

ACCEPTED = (
    ("terminationGracePeriodSeconds=80",),
    ("terminationGracePeriodSeconds=null", "drainSeconds=600"),
    ("networkPolicy.apiServer.cidrs={169.128.0.0/10,169.0.0.0/9,10.0.0.0/8,fd00::/8,168.0.0.0/8}",),
    ("settings.INFERENCE_MAX_BATCH_SIZE=8", "extraEnv[0].name=ALL_PROXY", "extraEnv[0].value=x"),
    ("cache.type=persistentVolumeClaim", "cache.persistentVolumeClaim.accessModes={ReadWriteOncePod}"),
    ("global.anything=1",),
)


class ContradictionsTest(unittest.TestCase):
    def test_what_cannot_be_is_refused_with_advice(self) -> None:
        for values, message in REFUSED.items():
            with self.subTest(" ".join(values)), self.assertRaisesRegex(chart.Refused, message):
                chart.text(*(f"--set={value}" for value in values))

    def test_what_can_be_is_not(self) -> None:
        for values in ACCEPTED:
            with self.subTest(" ".join(values)):
                chart.text(*(f"--set={value}" for value in values))


if __name__ == "__main__":
    unittest.main()
