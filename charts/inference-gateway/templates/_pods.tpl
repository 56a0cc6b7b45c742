{{/* Parts of pods that the gateway, the controller and the test have in common. */}}

{{/* As the restricted Pod Security Standard asks, with numbers so that the kubelet need not read the image's users. */}}
{{- define "inference-gateway.podSecurity" -}}
{{- toYaml .Values.podSecurityContext }}
{{- end }}

{{/* An httpGet probe of the ops port: (list defaults path). Whatever the values say wins. */}}
{{- define "inference-gateway.probe" -}}
{{- $probe := index . 0 }}
{{- $handlers := pick $probe "httpGet" "exec" "tcpSocket" "grpc" }}
{{- if not $handlers }}
httpGet: {path: {{ index . 1 }}, port: ops}
{{- end }}
{{ toYaml $probe }}
{{- end }}

{{/* Fields of a pod about where it runs and as whom, from the values of its component: (list root values). */}}
{{- define "inference-gateway.placement" -}}
{{- $root := index . 0 }}
{{- $values := index . 1 }}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- range $field := list "priorityClassName" "runtimeClassName" "schedulerName" }}
{{- with get $values $field }}
{{ $field }}: {{ . | quote }}
{{- end }}
{{- end }}
{{- range $field := list "nodeSelector" "tolerations" "affinity" "hostAliases" "dnsConfig" }}
{{- with get $values $field }}
{{ $field }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- with get $values "dnsPolicy" }}
dnsPolicy: {{ . }}
{{- end }}
{{- end }}

{{/* Constraints without a selector get that of the component: (list root "component" constraints). */}}
{{- define "inference-gateway.spread" -}}
{{- $root := index . 0 }}
{{- $labels := include "inference-gateway.selectorLabels" (list $root (index . 1)) | fromYaml }}
{{- range index . 2 }}
{{- $constraint := deepCopy . }}
{{- if not (hasKey $constraint "labelSelector") }}
{{- $_ := set $constraint "labelSelector" (dict "matchLabels" $labels) }}
{{- end }}
- {{ toYaml $constraint | nindent 2 | trim }}
{{- end }}
{{- end }}

{{/* The volume of the cache. */}}
{{- define "inference-gateway.cacheVolume" -}}
{{- $cache := .Values.cache }}
- name: cache
{{- if eq $cache.type "emptyDir" }}
  emptyDir:
    {{- toYaml $cache.emptyDir | nindent 4 }}
{{- else if eq $cache.type "hostPath" }}
  hostPath: {path: {{ $cache.hostPath.path | quote }}, type: {{ $cache.hostPath.type }}}
{{- else if eq $cache.type "ephemeral" }}
  ephemeral:
    volumeClaimTemplate:
      spec:
        accessModes: [ReadWriteOnce]
        {{- with $cache.ephemeral.storageClassName }}
        storageClassName: {{ . | quote }}
        {{- end }}
        resources: {requests: {storage: {{ $cache.ephemeral.size | quote }}}}
{{- else }}
  persistentVolumeClaim:
    claimName: {{ default (printf "%s-cache" (include "inference-gateway.fullname" .)) $cache.persistentVolumeClaim.existingClaim | quote }}
{{- end }}
{{- end }}

{{/* The volume of the folder of models, if there is one. */}}
{{- define "inference-gateway.modelVolume" -}}
{{- $root := .Values.modelRoot }}
{{- if ne $root.type "none" }}
- name: models
{{- if eq $root.type "hostPath" }}
  hostPath: {path: {{ $root.hostPath.path | quote }}, type: Directory}
{{- else if eq $root.type "persistentVolumeClaim" }}
  persistentVolumeClaim: {claimName: {{ $root.persistentVolumeClaim.existingClaim | quote }}, readOnly: true}
{{- else }}
  {{- toYaml $root.volume | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}
