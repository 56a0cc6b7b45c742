{{/*
What values must not say together. Each message says what to do. Called by the gateway's Deployment, so that every rendering of
the chart is checked.
*/}}

{{- define "inference-gateway.checks" -}}
{{- include "inference-gateway.checkGrace" . }}
{{- include "inference-gateway.checkVariables" . }}
{{- include "inference-gateway.checkMode" . }}
{{- include "inference-gateway.checkAccess" . }}
{{- include "inference-gateway.checkVolumes" . }}
{{- include "inference-gateway.checkScaling" . }}
{{- include "inference-gateway.checkMonitors" . }}
{{- include "inference-gateway.checkNetworks" . }}
{{- include "inference-gateway.checkRoutes" . }}
{{- include "inference-gateway.checkTraces" . }}
{{- end }}

{{/* Seconds from the order to end until the kubelet kills: the sleep, the leave-taking, the drain, and ten for what comes after. */}}
{{- define "inference-gateway.neededGrace" -}}
{{- add .Values.preStopSeconds .Values.leaveSeconds .Values.drainSeconds 10 }}
{{- end }}

{{- define "inference-gateway.grace" -}}
{{- default (include "inference-gateway.neededGrace" .) (include "inference-gateway.text" (default "" .Values.terminationGracePeriodSeconds)) }}
{{- end }}

{{- define "inference-gateway.checkGrace" -}}
{{- $needed := include "inference-gateway.neededGrace" . | int64 }}
{{- $given := include "inference-gateway.grace" . | int64 }}
{{- if lt $given $needed }}
{{- fail (printf "terminationGracePeriodSeconds is %d, but preStopSeconds (%d) + leaveSeconds (%d) + drainSeconds (%d) + 10 is %d: requests would be cut off. Raise it, lower the others, or leave it empty to have it computed" $given (int64 .Values.preStopSeconds) (int64 .Values.leaveSeconds) (int64 .Values.drainSeconds) $needed) }}
{{- end }}
{{- end }}

{{- define "inference-gateway.checkVariables" -}}
{{- $own := include "inference-gateway.ownVariables" . | fromYaml }}
{{- $known := .Files.Lines "files/settings.txt" }}
{{- range $name, $_ := .Values.settings }}
{{- if hasKey $own $name }}
{{- fail (printf "settings.%s is set by the chart itself: use %s" $name (get $own $name)) }}
{{- end }}
{{- if not (has $name $known) }}
{{- fail (printf "settings.%s is no setting of this version (docs/settings.md): mend the name, or use extraEnv" $name) }}
{{- end }}
{{- end }}
{{- range .Values.extraEnv }}
{{- if hasKey $own .name }}
{{- fail (printf "extraEnv has %s, which the chart itself sets: use %s" .name (get $own .name)) }}
{{- end }}
{{- if hasKey $.Values.settings .name }}
{{- fail (printf "extraEnv and settings both have %s: remove one of them" .name) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "inference-gateway.checkMode" -}}
{{- if and (eq .Values.mode "env") (not .Values.model.source) }}
{{- fail "mode env serves one model: set model.source to a folder, an .onnx file, a URL, hf://owner/repository or oci://…" }}
{{- end }}
{{- if and (ne .Values.mode "env") .Values.model.source }}
{{- fail (printf "model.source is for mode env, and mode is %s: set mode to env, or name the model in %s" .Values.mode (ternary "models" "a Model object" (eq .Values.mode "configMap"))) }}
{{- end }}
{{- if and (ne .Values.mode "env") (or .Values.model.chatTemplate .Values.model.promptTemplate .Values.model.promptTemplates) }}
{{- fail (printf "templates of model are for mode env, and mode is %s: give them to the model in %s (docs/templates.md)" .Values.mode (ternary "models" "its Model object" (eq .Values.mode "configMap"))) }}
{{- end }}
{{- if and (ne .Values.mode "configMap") .Values.models }}
{{- fail (printf "models is for mode configMap, and mode is %s: set mode to configMap%s" .Values.mode (ternary ", or apply Model objects" "" (eq .Values.mode "crd"))) }}
{{- end }}
{{- if and .Values.configMap.existingName .Values.models }}
{{- fail "configMap.existingName names a list that somebody else keeps, and models is one too: use one of them" }}
{{- end }}
{{- end }}

{{- define "inference-gateway.checkAccess" -}}
{{- $auth := .Values.auth }}
{{- if and (eq $auth.mode "apiKeys") (not $auth.keys.secretName) }}
{{- fail "auth.mode is apiKeys: set auth.keys.secretName to a Secret with the file of keys (docs/access.md)" }}
{{- end }}
{{- if and (ne $auth.mode "apiKeys") $auth.keys.secretName }}
{{- fail (printf "auth.keys.secretName is for auth.mode apiKeys, and auth.mode is %s: set it, or leave the Secret out" $auth.mode) }}
{{- end }}
{{- if and $auth.audiences (not (include "inference-gateway.asksCluster" .)) }}
{{- fail "auth.audiences is for auth.mode or auth.metrics kubernetes: set one of them, or leave the audiences out" }}
{{- end }}
{{- if and .Values.tls.clientCa.configMapName (not .Values.tls.secretName) }}
{{- fail "tls.clientCa is for TLS: set tls.secretName to a Secret with a certificate and its key" }}
{{- end }}
{{- if and .Values.tests.keySecret.name (eq $auth.mode "none") }}
{{- fail "tests.keySecret is for auth.mode apiKeys or kubernetes, and auth.mode is none: leave it out" }}
{{- end }}
{{- if and .Values.tests.keySecret.name .Values.tls.secretName }}
{{- fail "tests.keySecret is not for TLS, where the test looks at readiness alone: leave it out" }}
{{- end }}
{{- end }}

{{- define "inference-gateway.checkVolumes" -}}
{{- $cache := .Values.cache }}
{{- if and (eq $cache.type "hostPath") (not $cache.hostPath.path) }}
{{- fail "cache.type is hostPath: set cache.hostPath.path" }}
{{- end }}
{{- $root := .Values.modelRoot }}
{{- if and (eq $root.type "hostPath") (not $root.hostPath.path) }}
{{- fail "modelRoot.type is hostPath: set modelRoot.hostPath.path" }}
{{- end }}
{{- if and (eq $root.type "persistentVolumeClaim") (not $root.persistentVolumeClaim.existingClaim) }}
{{- fail "modelRoot.type is persistentVolumeClaim: set modelRoot.persistentVolumeClaim.existingClaim" }}
{{- end }}
{{- if and (eq $root.type "volume") (not $root.volume) }}
{{- fail "modelRoot.type is volume: set modelRoot.volume to the source of a volume, as {nfs: {server: …, path: …}}" }}
{{- end }}
{{- if and (eq $cache.type "persistentVolumeClaim") (not $cache.persistentVolumeClaim.existingClaim) (has "ReadWriteOncePod" $cache.persistentVolumeClaim.accessModes) (gt (include "inference-gateway.leastReplicas" . | int) 1) }}
{{- fail "a cache with ReadWriteOncePod is for one pod: use ReadWriteMany, or cache.type ephemeral, which gives each pod its own" }}
{{- end }}
{{- end }}

{{- define "inference-gateway.checkScaling" -}}
{{- if and .Values.autoscaling.enabled .Values.keda.enabled }}
{{- fail "autoscaling.enabled and keda.enabled would scale the same pods: enable one of them" }}
{{- end }}
{{- if and .Values.keda.enabled (not .Values.keda.serverAddress) }}
{{- fail "keda.enabled: set keda.serverAddress to the address of Prometheus, as http://prometheus.monitoring:9090" }}
{{- end }}
{{- range $name := list "autoscaling" "keda" }}
{{- with get $.Values $name }}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) }}
{{- fail (printf "%s.minReplicas (%d) is above %s.maxReplicas (%d): lower the first or raise the second" $name (int .minReplicas) $name (int .maxReplicas)) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "inference-gateway.checkRoutes" -}}
{{- $route := .Values.httpRoute }}
{{- if and $route.enabled (not $route.parentRefs) }}
{{- fail "httpRoute.enabled: set httpRoute.parentRefs to the Gateway, as [{name: public, namespace: gateways}]" }}
{{- end }}
{{- if and $route.enabled (eq $route.backend "InferencePool") (not .Values.inferencePool.enabled) }}
{{- fail "httpRoute.backend is InferencePool, which is not there: set inferencePool.enabled, or httpRoute.backend to Service" }}
{{- end }}
{{- if and .Values.inferencePool.enabled (not .Values.inferencePool.endpointPicker.serviceName) }}
{{- fail "inferencePool.enabled: set inferencePool.endpointPicker.serviceName to the Service of the endpoint picker" }}
{{- end }}
{{- end }}

{{- define "inference-gateway.checkTraces" -}}
{{- if and .Values.traces.endpoint .Values.networkPolicy.enabled (not .Values.networkPolicy.extraEgress) }}
{{- fail "traces.endpoint names a collector, and networkPolicy.enabled keeps pods from it: add a rule for it to networkPolicy.extraEgress" }}
{{- end }}
{{- end }}
