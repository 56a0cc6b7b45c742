{{/*
Names and labels. Names are cut so that the longest suffix ("-controller", "-endpoint-picker") still fits into the 63
characters of a label.
*/}}

{{- define "inference-gateway.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 46 | trimSuffix "-" }}
{{- end }}

{{- define "inference-gateway.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 46 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 46 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 46 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "inference-gateway.controllerName" -}}
{{- printf "%s-controller" (include "inference-gateway.fullname" .) }}
{{- end }}

{{/* The Service of probes and metrics; `.` is the name of what it belongs to. */}}
{{- define "inference-gateway.opsName" -}}
{{- printf "%s-ops" . }}
{{- end }}

{{/* Objects that are not in a namespace carry both names, with a dot that neither of them can have. */}}
{{- define "inference-gateway.clusterName" -}}
{{- printf "%s.%s" (include "inference-gateway.fullname" .) .Release.Namespace }}
{{- end }}

{{- define "inference-gateway.serviceAccountName" -}}
{{- $account := .Values.serviceAccount.gateway }}
{{- if $account.create }}
{{- default (include "inference-gateway.fullname" .) $account.name }}
{{- else }}
{{- default "default" $account.name }}
{{- end }}
{{- end }}

{{- define "inference-gateway.controllerServiceAccountName" -}}
{{- $account := .Values.serviceAccount.controller }}
{{- if $account.create }}
{{- default (include "inference-gateway.controllerName" .) $account.name }}
{{- else }}
{{- default "default" $account.name }}
{{- end }}
{{- end }}

{{/*
The lease of the controllers belongs to the gateway, not to the release: a second release for the same gateway name in
this namespace is refused by helm because the lease is another's, before two controllers move the same models.
*/}}
{{- define "inference-gateway.leaseName" -}}
{{- if eq .Values.gatewayName "default" }}inference-gateway-controller
{{- else }}inference-gateway-controller-{{ .Values.gatewayName }}
{{- end }}
{{- end }}

{{- define "inference-gateway.modelsConfigMapName" -}}
{{- default (printf "%s-models" (include "inference-gateway.fullname" .)) .Values.configMap.existingName }}
{{- end }}

{{/* What tells the pods of a component from all others. Selectors cannot change: neither may these. */}}
{{- define "inference-gateway.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "inference-gateway.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* All labels of an object: (list . "component"). */}}
{{- define "inference-gateway.labels" -}}
{{- $root := index . 0 -}}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "inference-gateway.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: inference-gateway
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels of a pod: without those that change with the chart alone, which would replace all pods. (list . "component") */}}
{{- define "inference-gateway.podLabels" -}}
{{ include "inference-gateway.selectorLabels" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/part-of: inference-gateway
{{- with (index . 0).Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Annotations of an object, or nothing. */}}
{{- define "inference-gateway.annotations" -}}
{{- with . }}
  annotations:
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- end }}

{{/* registry/repository:tag, or @digest. */}}
{{- define "inference-gateway.image" -}}
{{- $image := .Values.image }}
{{- $name := $image.repository }}
{{- if $image.registry }}{{ $name = printf "%s/%s" $image.registry $image.repository }}{{ end }}
{{- if $image.digest }}{{ printf "%s@%s" $name $image.digest }}
{{- else }}{{ printf "%s:%s" $name (default .Chart.AppVersion $image.tag) }}
{{- end }}
{{- end }}

{{/* "true" where the gateway speaks with the apiserver. */}}
{{- define "inference-gateway.usesApi" -}}
{{- if or (eq .Values.mode "crd") (and (eq .Values.mode "configMap") (eq .Values.configMap.watch "api")) }}true{{ end }}
{{- end }}

{{/* "true" where the gateway asks the cluster who comes. */}}
{{- define "inference-gateway.asksCluster" -}}
{{- if or (eq .Values.auth.mode "kubernetes") (eq .Values.auth.metrics "kubernetes") }}true{{ end }}
{{- end }}

{{/* "true" where gateway pods speak with the apiserver, for whichever reason. */}}
{{- define "inference-gateway.speaksApi" -}}
{{- if or (include "inference-gateway.usesApi" .) (include "inference-gateway.asksCluster" .) }}true{{ end }}
{{- end }}

{{/* "true" where `helm test` cannot generate: it has no key, or does not know the certificate. */}}
{{- define "inference-gateway.testsReadinessAlone" -}}
{{- if or .Values.tls.secretName (and (ne .Values.auth.mode "none") (not .Values.tests.keySecret.name)) }}true{{ end }}
{{- end }}

{{/* What the API is reached by. */}}
{{- define "inference-gateway.scheme" -}}
{{- ternary "https" "http" (not (empty .Values.tls.secretName)) }}
{{- end }}

{{/* "true" where something else decides how many pods there are. */}}
{{- define "inference-gateway.isScaled" -}}
{{- if or .Values.autoscaling.enabled .Values.keda.enabled }}true{{ end }}
{{- end }}

{{/* The smallest number of gateway pods. */}}
{{- define "inference-gateway.leastReplicas" -}}
{{- if .Values.autoscaling.enabled }}{{ .Values.autoscaling.minReplicas }}
{{- else if .Values.keda.enabled }}{{ .Values.keda.minReplicas }}
{{- else }}{{ .Values.replicaCount }}
{{- end }}
{{- end }}
